"""What the training stages share: schedule, optimizer step, moving averages, atomic checkpoints, the jsonl log."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader_shapes.pretrain.muon import Muon

Checkpoint = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: it ends at `steps` optimizer steps, or after `minutes` of processor time before that.

    The learning rate follows a cosine that reaches zero at that end.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    minutes: float = math.inf

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget that is used up, in [0, 1]; `elapsed` in seconds over all sessions."""
        return min(1.0, max(step / self.steps, elapsed / 60 / self.minutes))

    def rate(self, step: int, elapsed: float) -> float:
        """Learning rate: linear warm-up, times the cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress(step, elapsed)))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * cosine


@dataclass
class PhaseTimer:
    """Processor time in seconds over all sessions of a stage; what else the machine does is not counted."""

    before: float = 0.0
    start: float = field(default_factory=time.process_time)

    def elapsed(self) -> float:
        return self.before + time.process_time() - self.start


class MovingAverage:
    """Exponential moving average of a module's parameters, with a shorter memory at the start."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - decay)
            else:
                self.values[name].copy_(value)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes to a temporary name and renames, so that a kill leaves the previous checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(checkpoint, temporary)
    temporary.replace(path)


def load_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint at `path`, or `None` if there is none yet."""
    return torch.load(path, weights_only=True) if path.exists() else None


class Training:
    """What a stage trains and how far it is: all of it is in the checkpoint at `path`, from which it goes on.

    Args:
        path: of the checkpoint.
        module: trained in place by Muon.
        budget: schedule and end.
        seed: of `generator`, which the stage draws from.
        decay: of the moving average.
    """

    def __init__(self, path: Path, module: nn.Module, budget: Budget, seed: int, decay: float = 0.99) -> None:
        self.path, self.module, self.budget = path, module, budget
        self.optimizer = Muon(module.named_parameters(), lr=budget.learning_rate)
        self.average = MovingAverage(module, decay)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps, self.timer = 0, PhaseTimer()
        if (saved := load_checkpoint(path)) is not None:
            module.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.average.values = saved["average"]
            self.generator.set_state(saved["generator"])
            self.steps, self.timer = saved["step"], PhaseTimer(saved["elapsed"])

    @property
    def progress(self) -> float:
        """Share of the budget that is used up."""
        return self.budget.progress(self.steps, self.timer.elapsed())

    @property
    def seconds(self) -> float:
        """Processor time so far, for the log."""
        return round(self.timer.elapsed(), 1)

    def update(self, loss: Tensor) -> float:
        """One optimizer step on `loss`; returns its value."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.budget.rate(self.steps, self.timer.elapsed())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.module, self.steps)
        self.steps += 1
        return loss.item()

    def due(self, every: int) -> bool:
        """Whether it is time for what happens `every` so many steps, and at the end."""
        return self.steps % every == 0 or self.progress >= 1

    def save(self) -> None:
        checkpoint = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint |= {"average": self.average.values, "generator": self.generator.get_state()}
        save_checkpoint(self.path, checkpoint | {"step": self.steps, "elapsed": self.timer.elapsed()})


class Log:
    """Appends one JSON object per line and prints it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, **values: Any) -> None:
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
        line = json.dumps(rounded)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
