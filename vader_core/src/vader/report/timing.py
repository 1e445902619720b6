"""Where the time of a run went."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vader.report.numbers import duration
from vader.report.reading import RunData, sensible
from vader.runs.folder import Record

PHASES = ("rollout", "decode", "reward", "loss", "backward", "optimizer")


@dataclass(frozen=True)
class Phase:
    """Time of one phase over all optimizer steps."""

    name: str
    seconds: float
    share: float
    """Of all optimizer steps, 0 to 1."""
    start: float
    """Sum of the shares before it."""
    steps: int

    @property
    def total(self) -> str:
        return duration(self.seconds)

    @property
    def each(self) -> str:
        """Mean per optimizer step."""
        return duration(self.seconds / self.steps)

    @property
    def percent(self) -> str:
        return f"{self.share * 100:.1f}"


def step_seconds(record: Record) -> float:
    """Duration of an optimizer step; the sum of its phases where it is not given."""
    whole = sensible(record.get("time/step"))
    return math.fsum(_phase(record, name) for name in PHASES) if whole is None else whole


def time_left(run: RunData) -> float | None:
    """Seconds that the optimizer steps to come take, if they take as long as the last ones; None for none."""
    recent = [step_seconds(record) for record in run.records[-_RECENT:]]
    if run.planned is None or run.planned <= run.step or not any(recent):
        return None
    return (run.planned - run.step) * math.fsum(recent) / len(recent)


_RECENT = 20


def phases(run: RunData) -> list[Phase]:
    """Every phase that took time, in the order of the way of the data; empty without timings."""
    seconds = {name: math.fsum(_phase(record, name) for record in run.records) for name in PHASES}
    whole = math.fsum(step_seconds(record) for record in run.records)
    seconds["other"] = max(0.0, whole - math.fsum(seconds.values()))
    whole = math.fsum(seconds.values())
    found: list[Phase] = []
    start = 0.0
    for name, value in seconds.items():
        if value > 0:
            found.append(Phase(name, value, value / whole, start, len(run.records)))
            start += value / whole
    return found


def _phase(record: Record, name: str) -> float:
    return max(0.0, sensible(record.get(f"time/{name}")) or 0.0)
