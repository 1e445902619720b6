"""What shortcuts before the gradient window do to the gradient of the embedded model, and to a training on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vader
from vader.diffusion.gradient import Window
from vader.diffusion.seeding import derive, stream
from vader.diffusion.shortcuts import Shortcuts
from vader.methods.context import RolloutContext
from vader.resolve.validate import resolve
from vader.runs.assembly import Assembly, assemble
from vader.runs.engine import Engine

RECOMMENDED = "`coarse_steps: 8`"
VARIANTS: Mapping[str, dict[str, Any]] = {
    "every step": {},
    "`reuse: {every: 2}`": {"reuse": {"every": 2}},
    "`reuse: {every: 2, from_step: 3, to_step: 21}`": {"reuse": {"every": 2, "from_step": 3, "to_step": 21}},
    "`guidance_every: 2`": {"guidance_every": 2},
    "`guidance_every: 4`": {"guidance_every": 4},
    "`reuse: {every: 2}, guidance_every: 2`": {"reuse": {"every": 2}, "guidance_every": 2},
    "`coarse_steps: 12`": {"coarse_steps": 12},
    "`coarse_steps: 10`": {"coarse_steps": 10},
    RECOMMENDED: {"coarse_steps": 8},
    "`coarse_steps: 6`": {"coarse_steps": 6},
}
TRAININGS: Mapping[str, dict[str, Any]] = {
    "every step": {},
    RECOMMENDED: {"rollout": VARIANTS[RECOMMENDED]},
    "`coarse_steps: 3`": {"rollout": {"coarse_steps": 3}},
}
"""Runs whose rewards are compared; the first, what the reference's loop computes, is the measure of the others."""


@dataclass(frozen=True)
class Direction:
    """A variant's gradient.

    Args:
        share: floating-point operations of the denoiser, of those of the exact rollout.
        cosine: with the gradient of the exact rollout.
    """

    share: float
    cosine: float


def spec(seed: int, **changes: Any) -> dict[str, Any]:
    """A run of the embedded model with 25 steps and K 1; other noise judges it than trains it."""
    rate = {"learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 3}
    train = {"steps": 60, "batch_size": 16, **rate, "seed": seed, "device": "cpu"}
    judged = {"clips": 152, "batch_size": 38}
    return {
        "backbone": {"name": "shapes", "adapter": {"rank": 16}},
        "sampler": {"steps": 25, "guidance_scale": 1.0},
        "prompts": {"name": "shapes", "options": {"split": "train"}},
        "rewards": ["shapes_alignment"],
        "validation": {**judged, "save_clips": 0},
        **changes,
        "train": {**train, "validate_every": 12, **changes.get("train", {})},
    }


def directions(clips: int = 32) -> dict[str, Direction]:
    """Each variant's gradient, with guidance, beside the exact one; and beside that of another noise."""
    plan = resolve(spec(0, sampler={"steps": 25, "guidance_scale": 3.0}))
    live = assemble(plan, Engine(plan.spec), lambda _: None)
    exact, whole = _gradient(live, live.context, "clip", clips)
    found = {}
    for name, section in VARIANTS.items():
        gradient, flops = _gradient(live, _with(live.context, section), "clip", clips)
        found[name] = Direction(flops / whole, float(torch.cosine_similarity(gradient, exact, dim=0)))
    other, _ = _gradient(live, live.context, "another", clips)
    found["another noise"] = Direction(1.0, float(torch.cosine_similarity(other, exact, dim=0)))
    return found


def _with(context: RolloutContext, section: Mapping[str, Any]) -> RolloutContext:
    if not section:
        return context
    flat = {key: value for key, value in section.items() if key != "reuse"} | dict(section.get("reuse", {}))
    return replace(context, shortcuts=Shortcuts(**flat))


def _gradient(live: Assembly, context: RolloutContext, name: str, clips: int) -> tuple[Tensor, int]:
    """The adapter's gradient in one row, and operations of the rollout."""
    prompts = _prompts(clips)
    seeds = [derive(0, name, row) for row in range(clips)]
    with FlopCounterMode(display=False) as counter:
        latents = context.sample(live.encode(prompts), seeds, Window(24, 25))
    loss = -context.score(context.decode(latents, None), prompts)["shapes_alignment"].mean()
    gradients = torch.autograd.grad(loss, live.parameters, allow_unused=True)
    rows = [g.flatten() for g in gradients if g is not None]
    return torch.cat(rows), counter.get_total_flops()


def _prompts(clips: int) -> list[vader.Prompt]:
    return resolve(spec(0)).prompts.draw(clips, stream(0, "directions"))


def trained(folder: Path, name: str, seed: int) -> list[tuple[int, float, float]]:
    """Train one of :data:`TRAININGS`.

    Returns:
        For each validation the optimizer steps done, the operations of the denoiser in them, and the mean reward.
    """
    made = vader.train(spec(seed, **TRAININGS[name], output=str(folder)))
    operations = _operations(name)
    return [(each.step, each.step * operations, each.mean("shapes_alignment")) for each in made.validations]


def _operations(name: str, clips: int = 4) -> float:
    """Floating-point operations of the denoiser in an optimizer step of a training, forward and backward."""
    plan = resolve(spec(0, **TRAININGS[name]))
    live = assemble(plan, Engine(plan.spec), lambda _: None)
    steps = plan.spec.sampler.steps
    with FlopCounterMode(display=False) as counter:
        latents = live.context.sample(live.encode(_prompts(clips)), range(clips), Window(steps - 1, steps))
        torch.autograd.grad(latents.sum(), live.parameters, allow_unused=True)
    return counter.get_total_flops() * plan.spec.train.batch_size / clips
