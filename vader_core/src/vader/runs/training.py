"""``vader.train``: the only file that drives accelerate through a run."""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.seeding import derive
from vader.errors import CheckpointError, NonFiniteError
from vader.resolve import adapter_source, build, code_record
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve
from vader.runs import checkpoint, early_stop
from vader.runs.engine import DTYPES, make_accelerator, peak_bytes
from vader.runs.events import Listeners, Run, RunResult, Validation
from vader.runs.folder import RunFolder
from vader.runs.launch import require_processes
from vader.runs.listeners import MetricsFile, Trackers
from vader.runs.signals import StopSignals
from vader.runs.train_step import Counters, TrainStep
from vader.runs.validator import Validator
from vader.weights import lora
from vader.weights.lora.ema import Average


def train(
    spec: Spec,
    overrides: Sequence[str] = (),
    *,
    rewards: Sequence[Any] = (),
    resume: bool = False,
    listeners: Sequence[object] = (),
) -> RunResult:
    """Align a text-to-video model with reward gradients.

    Args:
        spec: a :class:`vader.RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.
        rewards: objects, classes or functions to train on besides the spec's, each with weight 1.
        resume: go on from the newest sound checkpoint of the output folder; begin when there is none.
        listeners: objects with hook implementations (:mod:`vader.runs.events`).

    Returns:
        What the run came to; its folder holds adapter, metrics, clips and report.

    Raises:
        SpecError: the spec is wrong; nothing was loaded.
        RunFolderError: the output folder cannot hold the run.
        LaunchError: other processes started than asked for.
        NonFiniteError: loss or gradient stayed NaN or infinite.
        CheckpointError: a checkpoint could not be written or resumed.
    """
    plan = resolve(spec, overrides, rewards, here=True)
    require_processes(plan.spec.train.processes)
    accelerator = make_accelerator(plan.spec)
    try:
        return _Trainer(plan, accelerator, resume, listeners).run()
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


class _Trainer:
    """The live objects of one run, and its course."""

    def __init__(
        self, plan: Plan, accelerator: Accelerator, resume: bool, listeners: Sequence[object]
    ) -> None:
        self._plan, self._spec, self._accelerator = plan, plan.spec, accelerator
        self._folder = RunFolder(Path(plan.spec.output).expanduser())
        self._notices: list[str] = []
        found = self._open(resume)
        self._load()
        self._prepare()
        self._step, counters = self._restore(found)
        self._saved = self._step  # of the newest checkpoint
        self._build_optimization(counters)
        self._metrics: dict[str, float] = {}
        self._learnt = False  # whether the score of train.early_stop no longer rises
        self._run = Run(self._folder.path, self._spec, self._step, accelerator.num_processes, plan.video.fps or 8.0)
        own: list[object] = [MetricsFile(self._folder.metrics), *listeners]
        if self._spec.trackers:
            own.insert(1, Trackers(accelerator))
        self._listeners = Listeners(own if accelerator.is_main_process else [], plugins=accelerator.is_main_process)

    # -- before the first step

    def _open(self, resume: bool) -> checkpoint.Checkpoint | None:
        if self._accelerator.is_main_process:
            found = self._folder.open(self._spec, resume=resume, notice=self._notices.append)
            environment = {"device": str(self._accelerator.device), "processes": self._accelerator.num_processes}
            self._folder.describe({**environment, "threads": torch.get_num_threads()})
            named = {reward.key for reward in self._spec.rewards}
            passed = {key: part.component for key, part in self._plan.rewards.items() if key not in named}
            self._notices += code_record.record(self._folder.path, self._spec, passed)
        self._accelerator.wait_for_everyone()
        return (
            found if self._accelerator.is_main_process else checkpoint.newest(self._folder.checkpoints, lambda _: None)
        )

    def _load(self) -> None:
        accelerator, spec = self._accelerator, self._spec
        dtype = DTYPES[spec.train.mixed_precision]
        with accelerator.main_process_first():
            self._backbone = build.assemble_backbone(self._plan, accelerator.device, dtype)
            self._rewards = build.assemble_rewards(self._plan.rewards, accelerator.device, dtype)
            held_out = {key: part for key, part in self._plan.held_out.items() if key not in self._rewards}
            self._held_out = build.assemble_rewards(held_out, accelerator.device, dtype)
        targets = self._plan.backbone.capability("lora_target_modules")
        seed = derive(spec.train.seed, "adapter")
        init = self._plan.initial_adapter
        tensors = adapter_source.tensors(self._plan.backbone, init) if init is not None else None
        self._parameters = lora.inject(self._backbone.denoiser, spec.backbone.adapter, targets, seed, tensors)
        self._folder.require_space(20 * sum(parameter.numel() for parameter in self._parameters))
        self._encode = ConditioningCache(self._backbone, accelerator.device)

    def _prepare(self) -> None:
        """Optimizer, the objects that accelerate wraps, and what works with them."""
        optimizer = torch.optim.AdamW(
            self._parameters, lr=self._spec.train.learning_rate, weight_decay=self._spec.train.weight_decay
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            self._denoiser, self._optimizer = self._accelerator.prepare(self._backbone.denoiser, optimizer)
        decay = self._spec.train.ema_decay
        self._average = Average(self._parameters, decay) if decay is not None else None
        device = self._accelerator.device
        self._context = build.assemble_context(
            self._plan, self._backbone, self._denoiser, self._rewards, device, gather_object
        )
        self._method = self._plan.method.build(context=self._context)

    def _restore(self, found: checkpoint.Checkpoint | None) -> tuple[int, Counters]:
        if found is None:
            torch.manual_seed(derive(self._spec.train.seed, "global", self._accelerator.process_index))
            return 0, Counters()
        if found.processes != self._accelerator.num_processes:
            raise CheckpointError(
                f"{found.path.name} was written by {found.processes} processes; this run has "
                f"{self._accelerator.num_processes}. Resume with --processes {found.processes}."
            )
        if found.digest != self._spec.digest():
            raise CheckpointError(
                f"{found.path.name} was written for another spec than this folder's. "
                "Remove it, or resume in the folder it comes from."
            )
        lora.load_into(self._backbone.denoiser, found.adapter)
        state = found.training_state()
        self._optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._method.load_state_dict(state["methods"][self._accelerator.process_index])
        checkpoint.restore_rng_state(found.rng_state(self._accelerator.process_index))
        return found.step, Counters(**found.counters)

    def _build_optimization(self, counters: Counters) -> None:
        self._optimization = TrainStep(
            self._spec.train,
            self._accelerator,
            self._denoiser,
            self._optimizer,
            self._parameters,
            self._method,
            self._plan.prompts,
            self._encode,
            counters,
            self._context.timer,
        )
        self._validator = Validator(
            self._plan,
            self._accelerator,
            replace(self._context, rewards={**self._rewards, **self._held_out}),
            self._encode,
            self._folder.samples,
            lambda step, done, total: self._emit("validation_progress", step=step, done=done, total=total),
        )

    # -- the course of a run

    def run(self) -> RunResult:
        """Train to the last step, or until a signal."""
        total = self._spec.train.steps
        with StopSignals() as signals:
            self._emit("run_started")
            for text in self._notices:
                self._emit("notice", text=text)
            self._validate_if_due()
            stopped = self._agree(signals.received)
            while self._step < total and stopped is None and not self._learnt:
                self._one_step()
                stopped = self._agree(signals.received)
                if stopped or self._step == total or self._step % self._spec.train.checkpoint_every == 0:
                    self._save()
                if stopped is None:
                    self._validate_if_due()
                    stopped = self._agree(signals.received) if self._step < total else None
            if self._step > self._saved:  # stopped or learnt in a validation
                self._save()
        return self._finish(stopped)

    def _emit(self, event: str, **arguments: Any) -> None:
        self._listeners.emit(event, run=self._run, **arguments)

    def _agree(self, received: str | None) -> str | None:
        """The signal that any process has received."""
        if self._accelerator.num_processes == 1:
            return received
        everyone: list[str | None] = gather_object([received])
        return next((one for one in everyone if one is not None), None)

    def _one_step(self) -> None:
        start = time.perf_counter()
        try:
            metrics, notice = self._optimization.step(self._step)
        except NonFiniteError:
            self._context.timer.read()
            raise
        self._step += 1
        if self._average is not None:
            self._average.update()
        phases = self._context.timer.read()
        metrics.update({f"time/{phase}": seconds for phase, seconds in phases.items()})
        metrics["time/step"] = time.perf_counter() - start
        metrics["memory/peak_bytes"] = float(peak_bytes(self._accelerator.device))
        self._metrics = metrics
        self._emit("step_finished", step=self._step, metrics=metrics)
        if notice is not None:
            self._emit("notice", text=notice)

    def _save(self) -> None:
        rng = gather_object([checkpoint.rng_state()])
        methods = gather_object([self._method.state_dict()])
        if self._accelerator.is_main_process:
            scaler = self._accelerator.scaler
            path = checkpoint.save(
                self._folder.checkpoints,
                self._step,
                digest=self._spec.digest(),
                write_adapter=lambda folder: lora.save(self._backbone.denoiser, folder),
                training={
                    "optimizer": self._optimizer.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "average": self._average.state_dict() if self._average is not None else None,
                    "methods": methods,
                },
                rng=rng,
                counters=asdict(self._optimization.counters),
            )
            self._emit("checkpoint_saved", step=self._step, path=path)
        self._saved = self._step
        self._accelerator.wait_for_everyone()

    # -- validation

    def _validate_if_due(self) -> None:
        if not self._validator.due(self._step):
            return
        with self._kept_weights():
            done = self._validator.at(self._step)
            stop = self._spec.train.early_stop
            if stop is not None:
                validations = self._validator.done(self._step)
                self._learnt = early_stop.exhausted(stop, validations)
                if early_stop.best(stop, validations).step == self._step:
                    self._write_adapter(self._folder.best)
        self._emit("validation_finished", validation=done)

    def _kept_weights(self) -> AbstractContextManager[None]:
        """The weights that are validated and kept: the moving average where there is one."""
        return self._average.swapped_in() if self._average is not None else nullcontext()

    def _write_adapter(self, folder: Path) -> None:
        """The adapter as it is now, for peft and for diffusers."""
        if self._accelerator.is_main_process:
            name = self._plan.backbone.capability("denoiser_name")
            checkpoint.replace_folder(folder, partial(lora.save, self._backbone.denoiser, denoiser_name=name))
        self._accelerator.wait_for_everyone()

    def _finish(self, stopped: str | None) -> RunResult:
        skipped = self._optimization.counters.skipped
        metrics = {key: value for key, value in self._metrics.items() if math.isfinite(value)}
        validations = self._validator.done(self._step)
        kept = self._step
        if stopped is None:
            kept = self._keep_adapter(validations)
        result = RunResult(self._folder.path, self._step, stopped, metrics, validations, skipped, kept)
        self._emit("run_finished", result=result)
        return result

    def _keep_adapter(self, validations: Sequence[Validation]) -> int:
        """Write ``adapter/``; the optimizer step that it is of."""
        stop = self._spec.train.early_stop
        if stop is None:
            with self._kept_weights():
                self._write_adapter(self._folder.adapter)
            return self._step
        best: Validation = early_stop.best(stop, validations)
        if self._accelerator.is_main_process:
            copy = partial(shutil.copytree, self._folder.best, dirs_exist_ok=True)
            checkpoint.replace_folder(self._folder.adapter, copy)
        why = f"{stop.score} was highest there ({best.mean(stop.score):.4g})"
        self._emit("notice", text=f"the adapter of optimizer step {best.step} is kept: {why}.")
        return best.step
