"""An optimizer step at K 1 costs what theory says, in floating-point operations: nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.integration.harness import BRIGHTNESS
from torch.utils.flop_counter import FlopCounterMode

from vader import Prompt
from vader.resolve.validate import resolve
from vader.runs.assembly import Assembly, assemble
from vader.runs.engine import Engine
from vader.runs.train_step import Counters, TrainStep

STEPS, FRAME, TEXT = 6, 5, "a red circle"


def operations(function: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def run() -> tuple[Assembly, TrainStep]:
    """The embedded Wan with guidance, one clip, one frame, default settings."""
    plan = resolve(
        {
            "backbone": {"name": "shapes", "adapter": {"rank": 4}},
            "sampler": {"steps": STEPS, "guidance_scale": 3.0},
            "prompts": {"name": "list", "options": {"prompts": [TEXT]}},
            "rewards": [BRIGHTNESS],
            "frames": {"mode": "index", "index": FRAME},
            "train": {"device": "cpu"},
            "validation": {"clips": 0},
        }
    )
    engine = Engine(plan.spec)
    live = assemble(plan, engine, lambda _: None)
    parts: Any = (plan.spec.train, engine, live.denoiser, live.optimizer, live.parameters, live.method, plan.prompts)
    return live, TrainStep(*parts, live.encode, Counters(), live.context.timer, live.context.objective)


def test_a_step_costs_what_theory_says(run: tuple[Assembly, TrainStep]) -> None:
    """N - 1 guided forwards, one forward and backward, decoder and reward forward and backward: at most 1.02 of it."""
    live, step = run
    context, prompts = live.context, [Prompt(TEXT)]
    step.step(0)  # encodes the prompt
    conditioning, latents = live.encode(prompts), context.noise([1]).draw()

    def guided() -> torch.Tensor:
        return context.predict_at(conditioning, latents, STEPS - 1, recompute=False)

    def judged() -> None:
        clean = latents.clone().requires_grad_()
        sum(context.score(context.decode(clean, [FRAME]), prompts).values()).sum().backward()

    with torch.no_grad():
        forward = operations(guided)
    theory = (STEPS - 1) * forward + operations(lambda: guided().sum().backward()) + operations(judged)
    live.optimizer.zero_grad()
    assert forward > 0
    assert theory / 1.02 < operations(lambda: step.step(1)) <= 1.02 * theory
