"""How the report writes numbers, so that what is compared has the same number of decimals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vader.report.statistics import PairedChange, is_binary, mean

MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NO-BREAK SPACE}"


def decimals(scale: float, uncertainty: float = 0.0) -> int:
    """Decimals worth showing for values of size ``scale`` known to within ``uncertainty``."""
    scale, uncertainty = abs(scale), abs(uncertainty)
    wanted = 2 if scale < 10 else 1 if scale < 1000 else 0
    if 0 < scale < 0.01:
        wanted = 1 - math.floor(math.log10(scale))
    if uncertainty > 0:
        wanted = max(wanted, -math.floor(math.log10(uncertainty)))
    return min(wanted, 9)


def plain(value: float, places: int | None = None) -> str:
    """``-0.25`` with a real minus sign."""
    text = f"{value:,.{decimals(value) if places is None else places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, places: int | None = None) -> str:
    """``plain`` with a plus sign for what is above zero."""
    text = plain(value, places)
    return text if text.startswith(MINUS) or not any(digit in text for digit in "123456789") else f"+{text}"


def percent(share: float) -> str:
    """``0.7`` as ``70 %``."""
    return f"{share * 100:.0f}{NARROW}%"


def mean_text(values: Sequence[float]) -> str:
    """Mean of a score over clips; in per cent when all are 0 or 1."""
    return f"{plain(mean(values) * 100, 1)}{NARROW}%" if is_binary(values) else plain(mean(values))


def short(value: float) -> str:
    """At most four characters or so, for axes: ``0.25``, ``1200``, ``3e-4``."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """``0.3 ms``, ``850 ms``, ``12.3 s``, ``3 min 12 s``, ``5 h 04 min``."""
    if seconds < 0.01:
        return f"{seconds * 1000:.1f}{NARROW}ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f}{NARROW}ms"
    if seconds < 60:
        return f"{seconds:.1f}{NARROW}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    return f"{minutes // 60}{NARROW}h {minutes % 60:02d}{NARROW}min"


def size(count: float) -> str:
    """Bytes as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f}{NARROW}{unit}"
        count /= 1024
    return f"{count:.2f}{NARROW}GiB"


def operations(count: float) -> str:
    """Floating-point operations as ``1.23 TFLOP``."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if count < 1000:
            return f"{plain(count)}{NARROW}{unit}"
        count /= 1000
    return f"{plain(count)}{NARROW}EFLOP"


def energy(joules: float) -> str:
    """``850.0 J``, ``1.23 Wh``, ``4.56 kWh``."""
    if joules < 3600:
        return f"{plain(joules)}{NARROW}J"
    hours = joules / 3600
    return f"{plain(hours)}{NARROW}Wh" if hours < 1000 else f"{plain(hours / 1000)}{NARROW}kWh"


class ChangeText:
    """The numbers of a paired change as text: binary scores in per cent and points, others with fitting decimals."""

    def __init__(self, change: PairedChange) -> None:
        self._change = change
        interval = change.interval
        half = (interval.high - interval.low) / 2 if interval else 0.0
        self._scale = 100.0 if change.binary else 1.0
        self._places = 1 if change.binary else decimals(max(abs(change.before), abs(change.after)), half)
        self._unit = f"{NARROW}%" if change.binary else ""
        self._points = f"{NARROW}points" if change.binary else ""

    @property
    def before(self) -> str:
        return plain(self._change.before * self._scale, self._places) + self._unit

    @property
    def after(self) -> str:
        return plain(self._change.after * self._scale, self._places) + self._unit

    @property
    def difference(self) -> str:
        return signed(self._change.difference * self._scale, self._places) + self._points

    @property
    def interval(self) -> str | None:
        """``0.45 to 0.61``."""
        if self._change.interval is None:
            return None
        low, high = (
            signed(value * self._scale, self._places)
            for value in (self._change.interval.low, self._change.interval.high)
        )
        return f"{low} to {high}{self._points}"

    @property
    def base_deviation(self) -> str | None:
        deviation = self._change.base_deviation
        return None if deviation is None else plain(deviation * self._scale, self._places) + self._points

    @property
    def gain(self) -> str | None:
        """In standard deviations of the scores before."""
        return None if self._change.gain is None else signed(self._change.gain, 2)

    @property
    def sentence(self) -> str:
        """``rose from 0.31 to 0.84 (+0.53, 95 % CI +0.45 to +0.61)``."""
        change = self._change
        interval = f", 95{NARROW}% CI {self.interval}" if self.interval else ""
        numbers = f"from {self.before} to {self.after} ({self.difference}{interval})"
        if change.direction:
            return f"{'rose' if change.direction > 0 else 'fell'} {numbers}"
        if change.interval is None:
            return f"went {numbers}"
        return f"did not change measurably: {numbers}"
