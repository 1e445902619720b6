"""What is measured: tiny models with random weights, each as a run of this project has it, live."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vader.diffusion.seeding import derive, stream
from vader.protocols import Batch
from vader.resolve.validate import resolve
from vader.runs.assembly import Assembly, assemble
from vader.runs.engine import Engine
from vader.runs.train_step import Counters, TrainStep

REWARD = f"{Path(__file__).parent / 'brightness.py'}:Brightness"
PROMPTS = ("a red circle", "a blue square", "a fox", "a river")


@dataclass(frozen=True)
class World:
    """A run that is ready to take optimizer steps.

    Args:
        live: its objects; the adapter is random, so that every path counts.
        step: takes an optimizer step.
        batch: what that step works on, for whoever takes it another way.
        k: denoising steps with gradient.
    """

    live: Assembly
    step: TrainStep
    batch: Batch
    k: int


def build(
    family: str,
    *,
    steps: int,
    k: int,
    blocks: bool,
    clips: int = 2,
    learning_rate: float = 1e-12,
    recompute: Literal["auto", False] = "auto",
) -> World:
    """A world of one family.

    Args:
        family: ``modelscope`` or ``wan``, with random weights; ``shapes``, with its own.
        steps: denoising steps.
        k: of them with gradient.
        blocks: recompute the denoiser's blocks in backward.
        clips: in a batch.
        learning_rate: by default one that leaves the numbers as they are.
        recompute: of denoising steps, see :data:`vader.diffusion.guidance.Recompute`.
    """
    sizes = {"modelscope": {"frames": 8, "height": 64, "width": 64}, "wan": {"frames": 17, "height": 64, "width": 64}}
    options = {} if family == "shapes" else {"weights": _weights(family)}
    spec = {
        "backbone": {"name": family, "options": options, "adapter": {"rank": 4}},
        "video": sizes.get(family, {}),
        "sampler": {"steps": steps, "guidance_scale": {"modelscope": 9.0, "wan": 5.0, "shapes": 3.0}[family]},
        "prompts": {"name": "list", "options": {"prompts": list(PROMPTS)}},
        "rewards": [REWARD],
        "gradient": {"mode": "tail", "k": k, "recompute": recompute},
        "frames": {"mode": "index", "index": 0},
        "train": {
            "batch_size": clips,
            "gradient_checkpointing": blocks,
            "learning_rate": learning_rate,
            "device": "cpu",
        },
        "validation": {"clips": 0},
    }
    plan = resolve(spec)
    engine = Engine(plan.spec)
    live = assemble(plan, engine, lambda _: None)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in live.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    parts: tuple[Any, ...] = (plan.spec.train, engine, live.denoiser, live.optimizer, live.parameters, live.method)
    step = TrainStep(*parts, plan.prompts, live.encode, Counters(), live.context.timer, live.context.objective)
    prompts = tuple(plan.prompts.draw(clips, stream(0, "prompts", 0)))
    seeds = tuple(derive(0, "clip", 0, row) for row in range(clips))
    return World(live, step, Batch(prompts, live.encode(prompts), seeds, stream(0, "draw", 0, 0)), k)


def _weights(family: str) -> str:
    import importlib

    plugin = {"modelscope": "vader_modelscope", "wan": "vader_diffusers"}[family]
    return str(importlib.import_module(f"{plugin}.tiny").write(tempfile.mkdtemp(prefix="vader-peers-")))
