"""What the stages need to know of a world: its clips, its held-out prompts, its evaluator, the sizes of its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader_shapes import evaluator, model, world
from vader_shapes.scenes import evaluator as scene_evaluator
from vader_shapes.scenes import grammar, renderer, splits
from vader_shapes.scenes.scene import KINDS, Scene


@dataclass(frozen=True)
class Clips:
    """Rendered clips `(n f c h w)` in [0, 1] with what they show and their prompts."""

    frames: Tensor
    attributes: list[Any]
    prompts: list[str]


@dataclass(frozen=True)
class Recipe:
    """One world, as the stages see it.

    Args:
        sizes: of its model.
        weights: the folder that the trained parts are exported to.
        training: at least so many clips of training combinations, from a seed.
        held_out: clips of held-out combinations, from a seed.
        prompts: name of a measurement -> the prompts that it samples, in an order whose beginning has them all.
        figures: shares in [0, 1] of clips that show what their prompts say.
        vae_clips, denoiser_clips: how many clips these stages train on.
        cropped_share: of the VAE's budget; the rest trains on whole frames.
    """

    sizes: model.Sizes
    weights: Path
    training: Callable[[int, int], Clips]
    held_out: Callable[[int], Clips]
    prompts: dict[str, list[str]]
    figures: Callable[[Tensor, Sequence[str]], dict[str, Any]]
    vae_clips: int
    denoiser_clips: int
    cropped_share: float


def training_clips(repeats: int, seed: int) -> Clips:
    """`repeats` clips of each training combination of the world of one object."""
    return rendered(world.train_combinations() * repeats, seed)


def rendered(attributes: list[world.Attributes], seed: int) -> Clips:
    """One clip for each of `attributes`."""
    frames = world.render_batch(attributes, torch.Generator().manual_seed(seed))
    return Clips(frames, attributes, [world.prompt(a) for a in attributes])


def rendered_scenes(scenes: list[Any], seed: int) -> Clips:
    """One clip for each of `scenes`."""
    frames = renderer.render_batch(scenes, torch.Generator().manual_seed(seed))
    return Clips(frames, scenes, [grammar.prompt(scene) for scene in scenes])


def mean_accuracy(right: dict[str, Tensor]) -> dict[str, float]:
    """Shares in [0, 1] of what an evaluator's `accuracy` returned."""
    return {name: round(value.float().mean().item(), 4) for name, value in right.items()}


def scene_figures(frames: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """Shares of scenes that are all right, over all and for each kind, and of each attribute where it is said."""
    right = scene_evaluator.accuracy(frames, prompts)
    scenes = [grammar.parse(text) for text in prompts]
    kinds = {kind: [scene.kind == kind for scene in scenes] for kind in KINDS}
    says = {name: [name in scene_evaluator.said(scene) for scene in scenes] for name in scene_evaluator.ATTRIBUTES}
    return {
        "all": _share(right["all"], [True] * len(scenes)),
        "by_kind": {kind: _share(right["all"], rows) for kind, rows in kinds.items() if any(rows)},
        "by_attribute": {name: _share(right[name], rows) for name, rows in says.items() if any(rows)},
    }


def _share(right: Tensor, rows: list[bool]) -> float:
    return round(right[torch.tensor(rows)].float().mean().item(), 4)


def _prompts_of(split: Callable[[str], list[Scene]]) -> list[str]:
    return [grammar.prompt(scene) for scene in splits.in_turn(split)]


ONE = Recipe(
    sizes=model.ONE,
    weights=model.WEIGHTS,
    training=lambda count, seed: training_clips(-(-count // len(world.train_combinations())), seed),
    held_out=lambda seed: rendered(world.held_out_combinations() * 4, seed),
    prompts={"held_out": [world.prompt(one) for one in world.held_out_combinations()]},
    figures=lambda frames, prompts: mean_accuracy(evaluator.accuracy(frames, prompts)),
    vae_clips=14 * 144,
    denoiser_clips=30 * 144,
    cropped_share=0.4,
)
SCENES = Recipe(
    sizes=model.SCENES,
    weights=model.WEIGHTS.with_name("scenes_weights"),
    training=lambda count, seed: rendered_scenes(splits.training_scenes(count, seed), seed),
    held_out=lambda seed: rendered_scenes(splits.held_out_scenes(), seed),
    prompts={"held_out": _prompts_of(splits.held_out_split), "seen": _prompts_of(splits.train_split)},
    figures=scene_figures,
    vae_clips=6000,
    denoiser_clips=32_000,
    cropped_share=0.7,
)
