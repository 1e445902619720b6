"""What the training stages share: data, schedule, moving averages, atomic checkpoints, the jsonl log."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader_shapes.world import Attributes, prompt, render_batch, train_combinations

Checkpoint = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long a stage trains: it ends at `steps` optimizer steps or after `minutes`, whichever comes first.

    The learning rate follows a cosine that reaches zero at that end, or, with `horizon`, at that step: a stage with
    `steps` below its `horizon` stops early on a longer schedule.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 50
    minutes: float = math.inf
    horizon: int | None = None

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the budget that is used up, in [0, 1]; `elapsed` in seconds over all sessions."""
        return min(1.0, max(step / self.steps, elapsed / 60 / self.minutes))

    def rate(self, step: int, elapsed: float) -> float:
        """Learning rate: linear warm-up, times the cosine."""
        end = max(self.steps, self.horizon or 0)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(step / end, elapsed / 60 / self.minutes))))
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * cosine


@dataclass
class PhaseTimer:
    """Training time in seconds over all sessions of a stage."""

    before: float = 0.0
    start: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.start


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


@dataclass(frozen=True)
class Clips:
    """Rendered clips `(n f c h w)` in [0, 1] with their attributes and prompts."""

    frames: Tensor
    attributes: list[Attributes]
    prompts: list[str]


def training_clips(repeats: int, seed: int) -> Clips:
    """`repeats` clips of each training combination."""
    return rendered(train_combinations() * repeats, seed)


def rendered(attributes: list[Attributes], seed: int) -> Clips:
    """One clip for each of `attributes`."""
    frames = render_batch(attributes, torch.Generator().manual_seed(seed))
    return Clips(frames, attributes, [prompt(a) for a in attributes])


def mean_accuracy(right: dict[str, Tensor]) -> dict[str, float]:
    """Shares in [0, 1] of what `evaluator.accuracy` returned."""
    return {name: round(value.float().mean().item(), 4) for name, value in right.items()}
