"""Scores -> reward -> loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vader.diffusion.precision import upcast
from vader.methods.scales import Scale
from vader.shapes import Scores


@dataclass(frozen=True)
class Term:
    """One reward's part, to be maximised: ``weight * score``; with a target ``-weight * |score - target|``; with a
    threshold ``-weight * relu(threshold - score)``.

    With a scale it is divided by the scores' spread, and ``weight * (score - mean) / spread`` takes the place of the
    first; target and threshold are in the score's own units whether there is a scale or not.
    """

    key: str
    weight: float = 1.0
    target: float | None = None
    threshold: float | None = None
    scale: Scale | None = None

    def reward(self, score: Scores) -> Scores:
        """``(b,)`` -> ``(b,)``."""
        if self.target is not None:
            aimed = -(score - self.target).abs()
        elif self.threshold is not None:
            aimed = -(self.threshold - score).relu()
        else:
            aimed = score if self.scale is None else score - self.scale.mean
        return self.weight * (aimed if self.scale is None else aimed / self.scale.spread)


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

    @property
    def scales(self) -> dict[str, Scale]:
        """The scales there are, by key."""
        return {term.key: term.scale for term in self.terms if term.scale is not None}

    def state_dict(self) -> dict[str, Any]:
        """The scales, for a checkpoint."""
        return {key: scale.state_dict() for key, scale in self.scales.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for key, scale in self.scales.items():
            scale.load_state_dict(state[key])
