"""The scale of a reward's scores: their mean and spread, by which rewards of different units are combined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any

DECAY = 0.98
"""What a moving scale keeps of itself at each optimizer step."""


class Scale:
    """Mean and spread (standard deviation) of a reward's scores.

    It is started with the scores of the base model; a moving one then follows those of each optimizer step: it is the
    mean and variance of all scores seen, an optimizer step's weighing 0.98 times what the next one's weigh.

    Args:
        moving: whether it follows.
    """

    def __init__(self, *, moving: bool = False) -> None:
        self._moving = moving
        self._mean: float | None = None
        self._variance = 0.0

    @property
    def started(self) -> bool:
        """Whether it has been started."""
        return self._mean is not None

    @property
    def mean(self) -> float:
        """The mean."""
        assert self._mean is not None, "a scale is used before it is started"
        return self._mean

    @property
    def spread(self) -> float:
        """The standard deviation, above 0."""
        assert self._mean is not None, "a scale is used before it is started"
        return math.sqrt(self._variance)

    def start(self, scores: Sequence[float]) -> None:
        """Begin with these scores.

        Raises:
            ValueError: they are not finite, or all the same.
        """
        mean, variance = fmean(scores), pvariance(scores)
        if not math.isfinite(variance) or variance <= (1e-9 * mean) ** 2:
            raise ValueError(f"the {len(scores)} scores of the first validation have no finite spread above 0")
        self._mean, self._variance = mean, variance

    def follow(self, scores: Sequence[float]) -> None:
        """Take up the scores of an optimizer step, if it moves; those that are not finite are left out."""
        seen = [score for score in scores if math.isfinite(score)]
        if not self._moving or not seen:
            return
        mean, variance = fmean(seen), pvariance(seen)
        apart = (mean - self.mean) ** 2
        self._variance = DECAY * self._variance + (1 - DECAY) * variance + DECAY * (1 - DECAY) * apart
        self._mean = DECAY * self.mean + (1 - DECAY) * mean

    def state_dict(self) -> dict[str, Any]:
        """Mean and variance."""
        return {"mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._mean, self._variance = state["mean"], state["variance"]
