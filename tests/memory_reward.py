"""Rewards with weights and activations of their own, for tests of ``vader estimate``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import vader


class Small:
    """Two convolutions, without meta_init: it is built and stripped of its bytes."""

    def __init__(self, runtime: vader.Runtime) -> None:
        self.network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1))
        self.network.requires_grad_(False).to(runtime.device)

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` -> ``(b,)``."""
        scores: Tensor = self.network(frames.flatten(0, 1)).mean(dim=(1, 2, 3))
        return scores.unflatten(0, frames.shape[:2]).mean(1)


class Counting(Small):
    """Its score depends on numbers that fake tensors do not have."""

    differentiable = False

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` -> ``(b,)``."""
        return torch.stack([clip[clip > 0.5].numel() + clip.new_zeros(()) for clip in frames])


class Unbuildable:
    """Cannot be constructed here."""

    def __init__(self, runtime: vader.Runtime) -> None:
        raise vader.WeightsError("its weights are on another machine.")

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """Never reached."""
        raise AssertionError
