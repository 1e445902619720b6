"""A sampler whose steps have two parts, which repeats timesteps, keeps the contract of samplers, and trains."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.integration.harness import tiny
from torch import Tensor

import vader
from vader import SamplerContext, StepOutput
from vader.sdk import Latents, Prediction
from vader.testing import SamplerContract, Subject


class Heun:
    """Heun's method for flows (Karras et al. 2022, arXiv 2206.00364, algorithm 1), a call of the denoiser at a time.

    A Heun step from one sigma to the next is two calls, at either end. What the number of calls leaves over, and the
    step to sigma 0, are Euler's.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    stochastic: ClassVar[bool] = False

    def __init__(self, context: SamplerContext) -> None:
        pairs = (context.steps - 1) // 2
        singles = context.steps - 2 * pairs
        nodes = torch.linspace(1, 0, pairs + singles + 1, dtype=torch.float64).tolist()
        self._calls: list[tuple[str, float, float]] = []
        for start, end in pairwise(nodes[: pairs + 1]):
            self._calls += [("predict", start, end), ("correct", start, end)]
        self._calls += [("euler", *ends) for ends in pairwise(nodes[pairs:])]
        seen = [end if part == "correct" else start for part, start, end in self._calls]
        self.timesteps = torch.tensor(seen, device=context.device) * context.schedule.train_timesteps
        self._kept: tuple[Tensor, Tensor] | None = None

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.Sampler`."""
        part, start, end = self._calls[i]
        output = model_output.to(latents.dtype)
        if part == "correct":
            assert self._kept is not None
            before, first = self._kept
            prev, clean = before + (end - start) * (first + output) / 2, latents - end * output
        else:
            self._kept = (latents, output)
            prev, clean = latents + (end - start) * output, latents - start * output
        return StepOutput(prev, clean, prev, latents.new_zeros(()))


class TestHeun(SamplerContract):
    @pytest.fixture
    def sampler(self) -> type:
        return Heun


def test_it_repeats_timesteps() -> None:
    context = SamplerContext(vader.NoiseSchedule("flow"), 5, 0.0, vader.Video(1, 8, 8), torch.device("cpu"))
    times = Heun(context).timesteps
    assert times[1] == times[2]
    assert times[3] == times[4]


class Still(Heun):
    """All its timesteps are one."""

    def __init__(self, context: SamplerContext) -> None:
        super().__init__(context)
        self.timesteps = torch.full_like(self.timesteps, 500.0)


def test_timesteps_that_never_fall_are_found() -> None:
    broken = [outcome.name for outcome in Subject("sampler", Still).outcomes() if outcome.broken]
    assert broken == ["timesteps_descend"]


def test_it_trains(tmp_path: Path) -> None:
    sampler = {"name": f"{Path(__file__).resolve()}:Heun", "steps": 5}
    spec = tiny(
        tmp_path / "run",
        sampler=sampler,
        backbone={"options": {"prediction": "flow"}},
        train={"steps": 1, "warmup_steps": 0},
    )
    assert vader.train(spec).step == 1
