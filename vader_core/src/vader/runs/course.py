"""The course of a run: optimizer steps, checkpoints and validations, to the last step or to a signal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from vader.errors import ComponentError, NonFiniteError, Problem, SpecError
from vader.resolve.plan import Plan
from vader.runs.ahead import coming, encode_ahead
from vader.runs.assembly import Assembly
from vader.runs.cost import Meter
from vader.runs.device import peak_bytes
from vader.runs.engine import Engine
from vader.runs.events import RunResult, Validation
from vader.runs.folder import RunFolder
from vader.runs.keeping import AdapterKeeper
from vader.runs.retention import Checkpoints
from vader.runs.signals import StopSignals
from vader.runs.step_shares import StepShares
from vader.runs.train_step import Counters, TrainStep
from vader.runs.validator import Validator


class Emit(Protocol):
    """Fires an event of the run, the hook's name without ``vader_``."""

    def __call__(self, event: str, /, **arguments: Any) -> None:
        """Tell every listener."""


class Course:
    """Takes a run from where it is to where it ends.

    Args:
        plan: of the run.
        engine: of the run.
        folder: of the run.
        live: what it works with.
        checkpoints: of the run.
        counters: of skipped optimizer steps.
        step: optimizer steps done.
        shares: how the batches of an optimizer step are shared out.
        emit: fires events.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        folder: RunFolder,
        live: Assembly,
        checkpoints: Checkpoints,
        counters: Counters,
        step: int,
        shares: StepShares,
        emit: Emit,
    ) -> None:
        self._plan, self._spec, self._engine, self._folder, self._live = plan, plan.spec, engine, folder, live
        self._checkpoints, self._counters, self._emit = checkpoints, counters, emit
        self._step = self._saved = step  # the latter of the newest checkpoint
        self._metrics: dict[str, float] = {}
        self._learnt = False  # whether the score of train.early_stop no longer rises
        self._keeper = AdapterKeeper(plan, live, folder, engine)
        self._meter = Meter(plan, engine, live.context.queries, live.method.inner_epochs)
        self._train_step = TrainStep(
            plan.spec.train,
            engine,
            live.denoiser,
            live.optimizer,
            live.parameters,
            live.method,
            plan.prompts,
            live.encode,
            counters,
            live.context.timer,
            live.context.objective,
            shares,
            self._meter.spent,
        )
        self._validator = Validator(
            plan,
            engine,
            live.validating,
            live.encode,
            folder,
            lambda step, done, total: emit("validation_progress", step=step, done=done, total=total),
            self._meter.energy,
        )

    def run(self, notices: Sequence[str]) -> RunResult:
        """Train to the last step, or until a signal.

        Args:
            notices: of what came before.
        """
        total = self._spec.train.steps
        with StopSignals() as signals:
            self._emit("run_started")
            for text in notices:
                self._emit("notice", text=text)
            self._encode_ahead(signals)
            stopped = self._agree(signals.received)
            if stopped is None:
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

    def _encode_ahead(self, signals: StopSignals) -> None:
        """Encode the prompts that are to come, until a signal."""
        live, watch = self._live, self._engine.watch
        watch.phase("encoding")
        prompts = coming(self._plan, live.backbone, live.encode, self._train_step.prompts, self._step)
        for done, total in encode_ahead(live.backbone, live.encode, prompts):
            watch.phase("encoding")
            self._emit("encoding_progress", done=done, total=total)
            if signals.received is not None:
                return

    def _agree(self, received: str | None) -> str | None:
        """The signal that any process has received."""
        if self._engine.num_processes == 1:
            return received
        return next((one for one in self._engine.gather_objects([received]) if one is not None), None)

    def _one_step(self) -> None:
        start = time.perf_counter()
        try:
            self._engine.watch.step(self._step + 1)
            with self._engine.together(), self._meter.step():
                metrics, notice = self._train_step.step(self._step)
        except NonFiniteError:
            self._live.context.timer.read()
            raise
        except SystemExit as error:
            method = type(self._live.method).__name__
            message = f"method {method}, or a component that it calls, raised SystemExit: {error}"
            raise ComponentError(message) from error
        self._step += 1
        if self._live.ema is not None:
            self._live.ema.update()
        phases = self._live.context.timer.read()
        metrics.update({f"time/{phase}": seconds for phase, seconds in phases.items()})
        metrics["time/step"] = time.perf_counter() - start
        metrics.update(self._engine.sent())
        metrics["memory/peak_bytes"] = float(peak_bytes(self._engine.device))
        self._metrics = metrics
        self._emit("step_finished", step=self._step, metrics=metrics)
        if notice is not None:
            self._emit("notice", text=notice)

    def _save(self) -> None:
        self._engine.watch.phase("checkpoint")
        self._checkpoints.save(self._step, self._validator.done, partial(self._emit, "checkpoint_saved"))
        self._saved = self._step

    def _validate_if_due(self) -> None:
        if not self._validator.due(self._step):
            return
        self._engine.watch.phase("validation")
        with self._keeper.weights(), self._engine.together():
            done = self._validator.at(self._step)
            self._learnt = self._keeper.after_validation(self._step, self._validator.done)
        self._start_scales(done)
        self._emit("validation_finished", validation=done)
        for alarm in done.alarms:
            if alarm.step == self._step:
                self._emit("notice", text=f"possible reward hacking: {alarm.text}")

    def _start_scales(self, done: Validation) -> None:
        """Give scales that have not begun the scores of the base model.

        Raises:
            SpecError: they have no spread.
        """
        for key, scale in self._live.context.objective.scales.items():
            if scale.started:
                continue
            try:
                scale.start([clip.scores[key] for clip in done.clips])
            except ValueError as error:
                index = [reward.key for reward in self._spec.rewards].index(key)
                message = f"{error}, so {key!r} cannot be divided by it. Use normalize: none, or other prompts."
                raise SpecError([Problem(f"rewards.{index}.normalize", message)]) from error

    def _finish(self, stopped: str | None) -> RunResult:
        metrics = {key: value for key, value in self._metrics.items() if math.isfinite(value)}
        validations = self._validator.done(self._step)
        kept_step = self._step
        if stopped is None:
            kept = self._keeper.finish(self._step, validations)
            kept_step = kept.step
            if kept.why is not None:
                self._emit("notice", text=f"the adapter of optimizer step {kept.step} is kept: {kept.why}.")
        skipped = self._counters.skipped
        result = RunResult(self._folder.path, self._step, stopped, metrics, validations, skipped, kept_step)
        self._emit("run_finished", result=result)
        return result
