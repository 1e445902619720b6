"""The hacking guard: image statistics of validation clips that leave the range of the base model's.

What cheated rewards have in common is that pictures change in ways that nobody asked for: colours burn, detail turns to
noise, motion freezes, all clips become one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vader.runs.events import Alarm, Validation
from vader.runs.image_statistics import STATISTICS
from vader.spec import HackingSpec

NARROWEST, LOWEST, HIGHEST = 0.1, 0.5, 1.0  # of the base's mean: the range's least half width, and its most
SURE = 2.0  # standard errors by which a mean must be outside
FEWEST = 4  # clips


@dataclass(frozen=True)
class Range:
    """Where the mean of a statistic may be."""

    base: float
    low: float
    high: float


def alarms(spec: HackingSpec | None, validations: Sequence[Validation]) -> tuple[Alarm, ...]:
    """The statistics of the last validation's clips that are outside the range of the first's.

    Args:
        spec: of the guard; None for none.
        validations: ascending by step; the first is the base's.
    """
    if spec is None or len(validations) < 2:
        return ()
    base, last, found = validations[0], validations[-1], []
    for name in STATISTICS:
        if _outside(spec, name, base, last):
            step = next(one.step for one in validations[1:] if _outside(spec, name, base, one))
            found.append(Alarm(name, step, _sentence(name, allowed(spec, _means(name, base)), step, last)))
    return tuple(found)


def _sentence(name: str, expected: Range, step: int, last: Validation) -> str:
    value = _mean(_means(name, last))
    return (
        f"the {name} of the validation clips {'rose' if value > expected.base else 'fell'} from {expected.base:.3g} to "
        f"{value:.3g} by optimizer step {last.step}; it left its range, {expected.low:.3g} to {expected.high:.3g}, at "
        f"optimizer step {step}."
    )


def allowed(spec: HackingSpec, values: Sequence[float]) -> Range:
    """The range of a statistic's mean, from the base's clips: ``spreads`` standard deviations to both sides.

    It is never less than a tenth of the mean wide to a side, and never reaches below half of it or above twice.
    """
    mean = _mean(values)
    wide = spec.spreads * _deviation(values)
    low, high = (max(NARROWEST * abs(mean), min(wide, most * abs(mean))) for most in (LOWEST, HIGHEST))
    return Range(mean, mean - low, mean + high)


def _outside(spec: HackingSpec, name: str, before: Validation, after: Validation) -> bool:
    """Whether the mean is outside by more than chance explains: paired by clip, ``SURE`` standard errors."""
    base, now = _values(name, before), _values(name, after)
    both = [(base[clip], now[clip]) for clip in base if clip in now]
    if len(both) < FEWEST:
        return False
    expected, value = allowed(spec, [a for a, _ in both]), _mean([b for _, b in both])
    doubt = SURE * _deviation([b - a for a, b in both]) / math.sqrt(len(both))
    return value - doubt > expected.high or value + doubt < expected.low


def _values(name: str, validation: Validation) -> dict[tuple[int, str, int], float]:
    """A statistic by clip, where it is known."""
    return {
        (clip.index, clip.prompt, clip.seed): value
        for clip in validation.clips
        if (value := clip.statistics.get(name)) is not None
    }


def _means(name: str, validation: Validation) -> list[float]:
    """Its values, one for each clip that has it."""
    return list(_values(name, validation).values())


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _deviation(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
