"""What a run cost, as far as its folder tells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from vader.report.numbers import duration, energy, operations, plain
from vader.report.reading import RunData
from vader.report.timing import step_seconds
from vader.runs.metrics_file import ENERGY, FLOPS, QUERIES


def costs(run: RunData) -> Iterator[tuple[str, str]]:
    """What is known, each with its name. A sum that lacks some of its parts says how many it has."""
    training, judging = training_seconds(run), validation_seconds(run)
    validations = run.every_validation
    if training:
        yield "Time in optimizer steps", duration(training)
    if judging:
        known = sum(one.seconds is not None for one in validations)
        yield "Time in validations", duration(judging) + _share(known, len(validations), "validations")
    if training and judging:
        yield "Time in both", duration(training + judging)
    queries = run.series(QUERIES)
    if queries:
        yield "Clips scored in training", plain(_sum(queries), 0) + _of_steps(queries, run)
    if validations:
        yield "Clips scored in validations", plain(sum(len(one.clips) for one in validations), 0)
    counted = run.series(FLOPS)
    if counted:
        whole = _sum(counted) / len(counted) * len(run.records)
        yield "Operations in optimizer steps", f"about {operations(whole)}"
    joules = run.series(ENERGY)
    if joules:
        between = math.fsum(one.joules for one in validations if one.joules is not None)
        yield "Energy", energy(_sum(joules) + between) + _of_steps(joules, run)


def training_seconds(run: RunData) -> float:
    """In optimizer steps."""
    return math.fsum(step_seconds(record) for record in run.records)


def validation_seconds(run: RunData) -> float:
    """In the validations that say how long they took."""
    return math.fsum(one.seconds for one in run.every_validation if one.seconds is not None)


def _sum(series: Sequence[tuple[float, float]]) -> float:
    return math.fsum(value for _, value in series)


def _of_steps(series: Sequence[tuple[float, float]], run: RunData) -> str:
    return _share(len(series), len(run.records), "optimizer steps")


def _share(known: int, whole: int, what: str) -> str:
    return f" ({known} of {whole} {what})" if known < whole else ""
