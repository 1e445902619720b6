"""What the stages train on and measure: rendered clips, held-out prompts, the evaluator's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vader_shapes.scenes import evaluator, grammar, renderer, splits
from vader_shapes.scenes.scene import KINDS, Scene


@dataclass(frozen=True)
class Clips:
    """Rendered clips `(n f c h w)` in [0, 1] with what they show and their prompts."""

    frames: Tensor
    scenes: list[Scene]
    prompts: list[str]


def rendered(scenes: list[Scene], seed: int) -> Clips:
    """One clip for each of `scenes`."""
    frames = renderer.render_batch(scenes, torch.Generator().manual_seed(seed))
    return Clips(frames, scenes, [grammar.prompt(scene) for scene in scenes])


def figures(frames: Tensor, prompts: Sequence[str]) -> dict[str, Any]:
    """Shares of scenes that are all right, over all and for each kind, and of each attribute where it is said."""
    right = evaluator.accuracy(frames, prompts)
    scenes = [grammar.parse(text) for text in prompts]
    kinds = {kind: [scene.kind == kind for scene in scenes] for kind in KINDS}
    says = {name: [name in evaluator.said(scene) for scene in scenes] for name in evaluator.ATTRIBUTES}
    return {
        "all": _share(right["all"], [True] * len(scenes)),
        "by_kind": {kind: _share(right["all"], rows) for kind, rows in kinds.items() if any(rows)},
        "by_attribute": {name: _share(right[name], rows) for name, rows in says.items() if any(rows)},
    }


def _share(right: Tensor, rows: list[bool]) -> float:
    return round(right[torch.tensor(rows)].float().mean().item(), 4)


def prompts_of(split: Callable[[str], list[Scene]]) -> list[str]:
    """The prompts of a split, one of each kind after the other."""
    return [grammar.prompt(scene) for scene in splits.in_turn(split)]


def training_clips(count: int, seed: int) -> Clips:
    """`count` clips of scenes that training may see."""
    return rendered(splits.training_scenes(count, seed), seed)


def held_out_clips(seed: int, every: int = 1) -> Clips:
    """One clip for each held-out scene, or for one in `every` of them."""
    return rendered(splits.held_out_scenes()[::every], seed)
