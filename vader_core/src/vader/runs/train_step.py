"""One optimizer step: micro-steps, accumulation, clipping, and what to do when numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.seeding import derive, stream
from vader.errors import NonFiniteError
from vader.methods.context import PhaseTimer
from vader.methods.objective import Objective
from vader.prompts import drawn
from vader.protocols import Batch, Loss, Method, Prompt, PromptSource
from vader.runs.step_shares import StepShares
from vader.spec import TrainSpec
from vader.weights.lora import dropouts


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Learning rate of optimizer step ``step``, counted from 0: linear warm-up, then the schedule down to 0."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / (spec.warmup_steps + 1)
    progress = (step - spec.warmup_steps) / max(1, spec.steps - spec.warmup_steps)
    factors = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return spec.learning_rate * factors[spec.schedule]


@dataclass
class Counters:
    """Optimizer steps skipped because loss or gradient was not finite: in all, and in a row until now."""

    skipped: int = 0
    in_a_row: int = 0

    def load(self, saved: Mapping[str, int]) -> None:
        """Take up counts that were saved, by name."""
        self.skipped, self.in_a_row = saved["skipped"], saved["in_a_row"]


class StepEngine(Protocol):
    """What an optimizer step needs of the processes; :class:`vader.runs.engine.Engine` has it."""

    @property
    def num_processes(self) -> int:
        """How many processes make the run together."""
        ...

    @property
    def process_index(self) -> int:
        """Which of them this one is, from 0."""
        ...

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Of the loss, in fp16."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Back-propagate a scalar."""
        ...

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Gradients stay in their processes for as long as the context lasts."""
        ...

    def clip_grad_norm(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """Clip the norm of all gradients together; the norm before."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one after the other."""
        ...


class TrainStep:
    """Runs optimizer steps.

    Args:
        spec: the run's ``train`` section.
        engine: of the run.
        denoiser: prepared.
        optimizer: prepared.
        parameters: that train.
        method: gives losses.
        prompts: the prompt source.
        encode: conditioning of prompts.
        counters: from an interrupted run, or new.
        timer: measures phases.
        objective: whose scales follow the scores.
        shares: how the batches of an optimizer step are shared out; None for a run that begins.
        spent: called when every loss is back-propagated; gives what this process has spent on them, by name, the same
            names in every process. Metrics are the sums over processes; one that is NaN anywhere is left out.
    """

    def __init__(
        self,
        spec: TrainSpec,
        engine: StepEngine,
        denoiser: nn.Module,
        optimizer: Any,
        parameters: list[nn.Parameter],
        method: Method,
        prompts: PromptSource,
        encode: ConditioningCache,
        counters: Counters,
        timer: PhaseTimer,
        objective: Objective,
        shares: StepShares | None = None,
        spent: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._spec, self._engine, self._denoiser = spec, engine, denoiser
        self._optimizer, self._parameters, self._method = optimizer, parameters, method
        self._prompts, self._encode, self.counters, self._timer = prompts, encode, counters, timer
        self._objective, self._dropouts, self._spent = objective, dropouts(denoiser), spent
        self._shares = shares or StepShares(spec.gradient_accumulation, engine.num_processes)

    def step(self, step: int) -> tuple[dict[str, float], str | None]:
        """Optimizer step ``step``, counted from 0.

        Returns:
            Its metrics, and a notice when the step was skipped.

        Raises:
            NonFiniteError: too many skipped in a row.
        """
        rate = learning_rate(self._spec, step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        for dropout in self._dropouts:
            dropout.train()
        losses = self._backward(step)
        for dropout in self._dropouts:
            dropout.eval()
        with self._timer("optimizer"):
            norm = self._engine.clip_grad_norm(self._parameters, self._spec.max_grad_norm)
            metrics = self._gather(losses, norm, fresh=step % self._method.inner_epochs == 0)
            metrics.update(learning_rate=rate)
            notice = self._apply(step, metrics)
            self._optimizer.zero_grad(set_to_none=True)
        return metrics, notice

    def prompts(self, step: int) -> list[tuple[Prompt, ...]]:
        """Those of optimizer step ``step`` in this process, by micro-step."""
        spec, world, shared = self._spec, self._engine.num_processes, self._method.group_size
        batches = world * self._shares.accumulation
        chance = stream(spec.seed, "prompts", self._start(step))
        chosen = drawn(self._prompts, batches * spec.batch_size // shared, chance)
        prompts = [prompt for prompt in chosen for _ in range(shared)]
        firsts = [batch * spec.batch_size for batch in range(self._engine.process_index, batches, world)]
        return [tuple(prompts[first : first + spec.batch_size]) for first in firsts]

    def _start(self, step: int) -> int:
        """The optimizer step whose clips this one uses."""
        return step - step % self._method.inner_epochs

    def _batches(self, step: int) -> list[Batch]:
        """This process's batch of every micro-step. Optimizer steps on the same clips have equal prompts and seeds."""
        spec, engine = self._spec, self._engine
        size, world, rank, start = spec.batch_size, engine.num_processes, engine.process_index, self._start(step)
        batches: list[Batch] = []
        for micro, mine in enumerate(self.prompts(step)):
            batch = micro * world + rank
            first = batch * size
            seeds = tuple(derive(spec.seed, "clip", start, first + row) for row in range(size))
            chance = stream(spec.seed, "draw", step, self._shares.draw(batch))
            batches.append(Batch(mine, self._encode(mine), seeds, chance))
        return batches

    def _backward(self, step: int) -> list[Loss]:
        """Every loss, back-propagated; gradients are synchronised in the very last pass."""
        engine, method, accumulation = self._engine, self._method, self._shares.accumulation
        passes = method.losses(self._batches(step), step % method.inner_epochs)
        total = accumulation * method.passes
        losses: list[Loss] = []
        for index in range(total):
            with nullcontext() if index == total - 1 else engine.no_sync(self._denoiser):
                loss = next(passes)
                with self._timer("backward"):
                    engine.backward(loss.value / accumulation)
            losses.append(loss)
        return losses

    def _gather(self, losses: list[Loss], norm: Tensor, *, fresh: bool) -> dict[str, float]:
        """Means over micro-steps and processes.

        Here an optimizer step waits for its device, and nowhere else: all figures are read at once.

        Args:
            losses: of the optimizer step.
            norm: of the gradient.
            fresh: whether its clips were made for it; then the scales of rewards follow their scores.
        """
        shared = {"loss": [loss.value for loss in losses], "reward": [loss.reward for loss in losses]}
        shared |= {f"score/{key}": [loss.scores[key] for loss in losses] for key in losses[0].scores}
        device = losses[0].value.device
        shared |= {
            key: [torch.as_tensor(loss.metrics[key], device=device) for loss in losses] for key in losses[0].metrics
        }
        costs = {key: [torch.as_tensor(value, device=device)] for key, value in self._spent().items()}
        read = self._read({**shared, "grad_norm": [norm], **costs})
        metrics = {key: float(series.mean()) for key, series in read.items() if key not in costs}
        totals = {key: float(read[key].sum()) for key in costs}
        metrics.update({key: total for key, total in totals.items() if not math.isnan(total)})
        metrics["loss"] *= self._method.passes
        for key, scale in self._objective.scales.items():
            metrics[f"normalized/{key}"] = (metrics[f"score/{key}"] - scale.mean) / scale.spread
            if fresh:
                scale.follow(read[f"score/{key}"].reshape(-1).tolist())
        return metrics

    def _read(self, series: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Numbers by name, ``(processes, n)`` float32 on the CPU: one gathering, one copy."""
        flat = {key: [one.detach().float().reshape(-1) for one in tensors] for key, tensors in series.items()}
        sizes = [sum(map(len, tensors)) for tensors in flat.values()]
        joined = torch.cat([one for tensors in flat.values() for one in tensors])
        gathered = self._engine.gather(joined).reshape(self._engine.num_processes, -1).cpu()
        return dict(zip(flat, torch.split(gathered, sizes, dim=1), strict=True))

    def _apply(self, step: int, metrics: dict[str, float]) -> str | None:
        """Take the step, or skip it when loss or gradient is not finite."""
        finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
        scaler = self._engine.scaler
        if finite or (scaler is not None and not math.isfinite(metrics["grad_norm"])):
            self._optimizer.step()  # a loss scaler skips by itself and lowers its scale
        elif scaler is not None:
            scaler.update(scaler.get_scale())  # the gradients it has unscaled are dropped; the scale is not at fault
        metrics["skipped"] = float(not finite)
        if finite:
            self.counters.in_a_row = 0
            return None
        self.counters.skipped += 1
        if scaler is None or scaler.get_scale() <= 1.0 or not math.isfinite(metrics["loss"]):
            self.counters.in_a_row += 1
        said = _describe(step + 1, metrics)
        if self.counters.in_a_row >= self._spec.max_nonfinite:
            raise NonFiniteError(
                f"{said} That makes {self.counters.in_a_row} optimizer steps in a row (train.max_nonfinite). "
                "The last checkpoint stands. Lower the learning rate or look at the reward that is named."
            )
        return f"{said} The optimizer step was skipped."


def _describe(step: int, metrics: Mapping[str, float]) -> str:
    """Which numbers of an optimizer step are not finite."""
    names = ["loss", "grad_norm", *(key for key in metrics if key.startswith("score/"))]
    wrong = [
        f"{name.replace('score/', 'reward ')} = {metrics[name]}" for name in names if not math.isfinite(metrics[name])
    ]
    if wrong == [f"grad_norm = {metrics['grad_norm']}"]:  # then every reward may be at fault
        scores = [f"{key.replace('score/', 'reward ')} = {metrics[key]:.4g}" for key in names[2:]]
        wrong.append(f"with {', '.join(scores)}")
    return f"optimizer step {step}: {', '.join(wrong)}."
