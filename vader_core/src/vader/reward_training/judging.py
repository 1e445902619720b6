"""How good a latent reward is, on held-out clips, at every noise level."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from vader.reward_training.spec import Loss

BINS = 10


@dataclass(frozen=True)
class Judgement:
    """At one timestep.

    Args:
        timestep: what the network received.
        agreement: Pearson's correlation with the labels (regression), share of right answers (cross_entropy), share of
            pairs in the right order (bradley_terry).
        rank: Spearman's correlation with the labels (regression); None elsewhere.
        own: the agreement over the clips' own prompts alone, where they were labelled by others too; else None.
        calibration: mean distance between what the reward says and what is so, over tenths of the clips by what it
            says: in standard deviations of the labels (regression; None if all are alike), or between
            probabilities (the others).
        bins: of each tenth, what the reward says and what is so, on average.
    """

    timestep: float
    agreement: float
    rank: float | None
    own: float | None
    calibration: float | None
    bins: tuple[tuple[float, float], ...]


AGREEMENT: dict[Loss, str] = {
    "regression": "correlation with the labels",
    "cross_entropy": "share of right answers",
    "bradley_terry": "share of pairs in the right order",
}
"""What ``agreement`` is."""


def judge(
    loss: Loss, timestep: float, scores: Sequence[float], truth: Sequence[float], own: int | None = None
) -> Judgement:
    """Judge scores.

    Args:
        loss: that the reward was trained with.
        timestep: of the clips.
        scores: of clips or, for bradley_terry, differences between the better and the worse clip of each pair.
        truth: labels; for bradley_terry not used.
        own: how many of them, the first ones, are by the clips' own prompts; None for all.
    """
    of_own = judge(loss, timestep, scores[:own], truth[:own]).agreement if own not in (None, len(scores)) else None
    if loss == "regression":
        unit = stats.tstd(truth) if len(set(truth)) > 1 else math.nan
        varied = len(set(scores)) > 1 and math.isfinite(unit)
        pearson = float(stats.pearsonr(scores, truth).statistic) if varied else 0.0
        spearman = float(stats.spearmanr(scores, truth).statistic) if varied else 0.0
        bins = _binned(scores, truth)
        error = _distance(bins) / unit if varied else None
        return Judgement(timestep, pearson, spearman, of_own, error, bins)
    if loss == "cross_entropy":
        right = [float((score > 0) == (label > 0.5)) for score, label in zip(scores, truth, strict=True)]
        bins = _binned([_sigmoid(score) for score in scores], truth)
    else:
        right = [float(score > 0) for score in scores]
        bins = _binned([_sigmoid(abs(score)) for score in scores], right)
    return Judgement(timestep, math.fsum(right) / len(right), None, of_own, _distance(bins), bins)


def _sigmoid(value: float) -> float:
    return 0.5 * (1 + math.tanh(value / 2))


def _binned(said: Sequence[float], true: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Means of both over tenths of equal size, by what is said."""
    ordered = sorted(zip(said, true, strict=True))
    count = min(BINS, len(ordered))
    edges = [round(index * len(ordered) / count) for index in range(count + 1)]
    parts = [ordered[low:high] for low, high in itertools.pairwise(edges)]
    return tuple(
        (math.fsum(s for s, _ in part) / len(part), math.fsum(t for _, t in part) / len(part)) for part in parts
    )


def _distance(bins: Sequence[tuple[float, float]]) -> float:
    return math.fsum(abs(said - true) for said, true in bins) / len(bins)
