"""Statistics of paired comparisons.

A validation makes the same clips, from the same prompts and seeds, each time. The clip is therefore the unit, also
when several clips share a prompt, and "before and after" is a paired comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedChange:
    """How a score changed over pairs of clips."""

    count: int
    """Pairs."""
    before: float
    """Mean before."""
    after: float
    """Mean after."""
    interval: Interval | None
    """95 % confidence interval of the mean difference; None for fewer than two pairs."""
    base_deviation: float | None
    """Sample standard deviation of the scores before; None for fewer than two pairs."""
    binary: bool
    """Whether every score is 0 or 1."""

    @property
    def difference(self) -> float:
        """Mean of after - before."""
        return self.after - self.before

    @property
    def gain(self) -> float | None:
        """The difference in units of the standard deviation before; None where that is zero or unknown."""
        return self.difference / self.base_deviation if self.base_deviation else None

    @property
    def direction(self) -> int:
        """1 for a rise, -1 for a fall, 0 when the interval holds zero or there is none."""
        if self.interval is None:
            return 0
        return (self.interval.low > 0) - (self.interval.high < 0)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def is_binary(values: Sequence[float]) -> bool:
    """Whether every value is 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)


def paired_change(before: Sequence[float], after: Sequence[float]) -> PairedChange:
    """The change of a score over clips made twice from the same prompt and seed.

    The interval is Student's for the mean of paired differences. For binary scores it is that of Bonett and Price
    (2012), which does not shrink to nothing when all pairs agree.

    Args:
        before: one finite score per clip, at least one.
        after: the scores of the same clips, in the same order.
    """
    assert len(before) == len(after) > 0
    binary = is_binary(before) and is_binary(after)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    return PairedChange(
        count=len(before),
        before=mean(before),
        after=mean(after),
        interval=_binary_interval(differences) if binary else mean_interval(differences),
        base_deviation=standard_deviation(before),
        binary=binary,
    )


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % confidence interval of the mean; None for fewer than two values."""
    deviation = standard_deviation(values)
    if deviation is None:
        return None
    half = t_quantile((1 + CONFIDENCE) / 2, len(values) - 1) * deviation / math.sqrt(len(values))
    return Interval(mean(values) - half, mean(values) + half)


def share_interval(values: Sequence[float]) -> Interval | None:
    """Wilson's 95 % confidence interval of the share of ones among zeros and ones; None for no values."""
    count = len(values)
    if not count:
        return None
    z = t_quantile((1 + CONFIDENCE) / 2, math.inf)
    share = mean(values)
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def _binary_interval(differences: Sequence[float]) -> Interval | None:
    """Interval of a paired difference of shares: Wald's after one pair is added to each kind of disagreement.

    Source: D. G. Bonett, R. M. Price, Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data, Journal of Educational and Behavioral Statistics 37 (2012).
    """
    if len(differences) < 2:
        return None
    total = len(differences) + 2
    gained = (sum(value > 0 for value in differences) + 1) / total
    lost = (sum(value < 0 for value in differences) + 1) / total
    half = t_quantile((1 + CONFIDENCE) / 2, math.inf) * math.sqrt((gained + lost - (gained - lost) ** 2) / total)
    return Interval(max(-1.0, gained - lost - half), min(1.0, gained - lost + half))


def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution.

    Args:
        probability: in (0, 1).
        freedom: degrees of freedom, above 0; ``math.inf`` gives the normal distribution.
    """
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))
