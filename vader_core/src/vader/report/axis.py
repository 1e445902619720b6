"""A chart's axis: from values to places, and the round numbers to mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vader.report.numbers import NARROW, plain, short

LOG_FROM = 100.0
"""Positive values that span more than this factor go on a logarithmic axis, where that is allowed."""


@dataclass(frozen=True)
class Axis:
    """A range of values on a stretch of the drawing."""

    low: float
    high: float
    start: float
    """Where ``low`` is drawn."""
    end: float
    """Where ``high`` is drawn."""
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is drawn."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values within the range."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        return round_values(self.low, self.high)

    def labels(self, *, percent: bool = False) -> list[str]:
        """The ticks as text, all with the same decimals."""
        ticks, scale = self.ticks, 100 if percent else 1
        unit = f"{NARROW}%" if percent else ""
        gap = (ticks[1] - ticks[0]) * scale if len(ticks) > 1 else 0.0
        if self.log or gap < 1e-4 or max(map(abs, ticks)) >= 1e5:
            return [short(tick * scale) + unit for tick in ticks]
        places = max(0, -math.floor(math.log10(gap) + 1e-9))
        return [plain(tick * scale, places) + unit for tick in ticks]


def round_values(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between ``low`` and ``high``, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def value_axis(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Axis:
    """An axis that holds all values with a little room; logarithmic only if allowed and worth it."""
    low, high = min(values), max(values)
    if log and low > 0 and high / low > LOG_FROM:
        return Axis(low / 1.3, high * 1.3, start, end, log=True)
    room = (high - low) * 0.08 or max(abs(high) * 0.05, 1e-6)
    bottom = 0.0 if low >= 0 and low - room < 0 else low - room
    return Axis(bottom, high + room, start, end)


def step_axis(last: float, start: float, end: float) -> Axis:
    """The axis of optimizer steps, from 0."""
    return Axis(0.0, max(last, 1.0), start, end)
