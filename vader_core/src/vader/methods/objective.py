"""Scores -> reward -> loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vader.diffusion.precision import upcast
from vader.shapes import Scores


@dataclass(frozen=True)
class Term:
    """One reward's part: ``weight * score`` to be maximised or, with a target, ``-weight * |score - target|``."""

    key: str
    weight: float = 1.0
    target: float | None = None

    def reward(self, score: Scores) -> Scores:
        """``(b,)`` -> ``(b,)``."""
        if self.target is None:
            return self.weight * score
        return -self.weight * (score - self.target).abs()


@dataclass(frozen=True)
class Objective:
    """The weighted combination of rewards. The loss is minus its mean.

    The reference's losses are terms of this: its aesthetic loss ``0.1 |s - 10|`` is weight 0.1, target 10; its HPS loss
    ``1 - s`` is weight 1 without a target, up to the constant.
    """

    terms: Sequence[Term]

    def reward(self, scores: Mapping[str, Scores]) -> Scores:
        """The combined reward, ``(b,)``."""
        return torch.stack([term.reward(upcast(scores[term.key])) for term in self.terms]).sum(0)

    def loss(self, scores: Mapping[str, Scores]) -> Tensor:
        """Scalar, the mean over the batch of minus the reward."""
        return -self.reward(scores).mean()
