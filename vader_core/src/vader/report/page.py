"""From a run folder to report.html."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vader.errors import RunFolderError
from vader.report.charts import Chart, Point, interval_mark, training_chart, validation_chart
from vader.report.clips import Gallery, gallery
from vader.report.comparison import Comparison, compare, role_of, score_is_binary, score_keys, values_of
from vader.report.cost import costs, training_seconds, validation_seconds
from vader.report.history import Histories, histories
from vader.report.kinds import by_kind
from vader.report.numbers import duration, mean_text, plain, size
from vader.report.reading import RunData, read_run
from vader.report.statistics import mean, mean_interval, share_interval, standard_deviation
from vader.report.summary import Summary, summarise
from vader.report.timing import phases, time_left
from vader.report.variety import divergence, spread
from vader.report.verdict import Diagnosis
from vader.runs.folder import RunFolder, finite


def write_report(folder: Path, *, live: bool = False) -> Path:
    """Write the report of a run from the files in its folder, whole or unfinished.

    Args:
        folder: the run folder.
        live: whether the page reloads itself, because it will be written again; histories of clips wait for the last
            writing, because joining large clips takes long.

    Returns:
        The path of report.html in that folder. It is written under a temporary name and renamed.

    Raises:
        RunFolderError: when the folder is not one of a run.
    """
    folder = Path(folder)
    return write_page(RunFolder(folder).report, render(read_run(folder), live=live, history=not live))


def write_page(path: Path, html: str) -> Path:
    """Write a page under a temporary name beside its own, and rename it.

    Raises:
        RunFolderError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.unlink(missing_ok=True)  # a link of that name would lead out of the folder
        with temporary.open("x", encoding="utf-8", errors="replace") as file:
            file.write(html)
        temporary.replace(path)
    except OSError as error:
        raise RunFolderError(f"cannot write {str(path)!r}: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(run: RunData, *, live: bool = False, history: bool = True) -> str:
    """The page as HTML. It asks for nothing from outside itself, and its security policy forbids it to.

    Args:
        run: what the folder says.
        live: whether the page reloads itself.
        history: whether it shows histories of clips.
    """
    lost: list[str] = []
    comparison = _attempt("the comparison", lambda: compare(run), None, lost)
    try:
        return _whole(run, comparison, lost, live, history)
    except Exception as error:  # numbers that no sentence can be made of
        lost.append(f"The comparison cannot be shown: {type(error).__name__}: {error}.")
        return _whole(run, None, lost, live, history)


T = TypeVar("T")
D = TypeVar("D")


def _attempt(what: str, make: Callable[[], T], instead: D, lost: list[str]) -> T | D:
    """A part of the page; something else, and a notice, where a damaged run folder does not let it be made."""
    try:
        return make()
    except Exception as error:
        lost.append(f"{what.capitalize()} cannot be shown: {type(error).__name__}: {error}.")
        return instead


def _whole(run: RunData, comparison: Comparison | None, lost: list[str], live: bool, history: bool) -> str:
    unknown = Summary(f"run {run.folder.name}", Diagnosis("neutral", "Not measured"), "", (), (), (), None)
    summary = _attempt("the summary", lambda: summarise(run, comparison), unknown, lost)
    none = Histories((), "", 0)
    parts: dict[str, Any] = {
        "gallery": _attempt("the clips", lambda: gallery(run, comparison), Gallery((), 0), lost),
        "histories": _attempt("the histories", lambda: histories(run), none, lost) if history else none,
        "marks": _attempt("the intervals", lambda: _marks(comparison), {}, lost),
        "kinds": _attempt("the kinds of prompts", lambda: by_kind(comparison), [], lost),
        "means": _attempt("the means", lambda: _means(run, comparison), [], lost),
        "facts": _attempt("the facts", lambda: list(_facts(run)), [], lost),
        "costs": _attempt("the costs", lambda: list(costs(run)), [], lost),
        "validation_charts": _attempt("the validations", lambda: list(_validation_charts(run)), [], lost),
        "training_charts": _attempt("the curves", lambda: list(_training_charts(run)), [], lost),
        "phases": _attempt("the times", lambda: phases(run), [], lost),
        "versions": _attempt("the versions", lambda: _versions(run), [], lost),
    }
    return fill(
        "template.html",
        run=run,
        written=round(time.time() * 1000) if live else None,
        name=run.folder.resolve().name,
        comparison=comparison,
        summary=replace(summary, notices=(*summary.notices, *lost)),
        skipped=any(record.get("skipped") for record in run.records),
        role=lambda key: role_of(run, key),
        **parts,
    )


def fill(template: str, **values: Any) -> str:
    """A page with the report's style and script, the only ones that its security policy lets run."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(_asset("report.css")), "script": Markup(script), "script_digest": digest}
    return _templates().get_template(template).render(**own, **values)


@cache
def _templates() -> Environment:
    return Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _asset(name: str) -> str:
    return files("vader.report").joinpath(name).read_text(encoding="utf-8")


def _marks(comparison: Comparison | None) -> dict[str, Markup]:
    """Each score's difference and interval, in standard deviations before, all on one axis."""
    found: dict[str, tuple[float, float, float]] = {}
    for score in comparison.scores if comparison else ():
        interval, gain, deviation = score.change.interval, score.change.gain, score.change.base_deviation
        if interval and gain is not None and deviation:
            found[score.key] = (interval.low / deviation, gain, interval.high / deviation)
    edges = min((low for low, _, _ in found.values()), default=0.0), max((h for _, _, h in found.values()), default=0.0)
    low, high = min(edges[0], 0.0), max(edges[1], 0.0)
    if low == high:
        return {}
    return {key: interval_mark(*values, (low, high)) for key, values in found.items()}


@dataclass(frozen=True)
class Mean:
    """A score of a validation that there is nothing to compare with."""

    key: str
    count: int
    mean: str
    deviation: str | None


def _means(run: RunData, comparison: Comparison | None) -> list[Mean]:
    found = []
    for key in score_keys(run) if comparison and not comparison.after else ():
        values = values_of(comparison.before, key) if comparison else []
        if values:
            deviation = standard_deviation(values)
            found.append(Mean(key, len(values), mean_text(values), None if deviation is None else plain(deviation)))
    return found


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    done = f"{run.step} of {run.planned}" if run.planned else str(run.step)
    yield "Optimizer steps", done
    yield "Skipped", str(sum(bool(record.get("skipped")) for record in run.records))
    training, judging = training_seconds(run), validation_seconds(run)
    if training:
        yield "Each took", duration(training / len(run.records))
        yield f"Time{', with validations' if judging else ''}", duration(training + judging)
    left = time_left(run)
    if left is not None:
        yield "About left, without validations", duration(left)
    if run.spec:
        train, processes = run.spec.train, run.spec.train.processes or finite(run.environment.get("processes")) or 1
        clips = train.batch_size * train.gradient_accumulation * processes
        yield "Clips per optimizer step", f"{finite(run.environment.get('clips_per_step')) or clips:.0f}"
    peak = max((value for _, value in run.series("memory/peak_bytes")), default=0.0)
    if peak:
        yield "Peak memory", size(peak)
    if run.environment.get("device"):
        yield "Device", str(run.environment["device"])
    if run.checkpoints:
        yield "Newest checkpoint", f"step {run.checkpoints[-1].removeprefix('step-').lstrip('0') or 0}"


def _validation_charts(run: RunData) -> Iterator[tuple[Chart, str]]:
    """Charts over the validations, each with what its title says of itself."""
    for key in score_keys(run):
        binary = score_is_binary(run, key)
        interval = share_interval if binary else mean_interval
        series = [(validation.step, values_of(validation, key)) for validation in run.validations]
        points = [Point(step, mean(values), interval(values)) for step, values in series if values]
        if points:
            yield validation_chart(key, points, percent=binary), role_of(run, key)
    between = [(validation.step, spread(validation.clips)) for validation in run.validations]
    apart = [(validation.step, divergence(run.validations[0], validation)) for validation in run.validations]
    for title, said, series in (("diversity", "between clips", between), ("divergence", "from the first clips", apart)):
        points = [Point(step, mean(values), mean_interval(values)) for step, values in series if values]
        if len(points) > 1:
            yield validation_chart(title, points), said


_OF_METHODS = {
    "kl": "divergence from the base",
    "ddpo/ratio_deviation": "deviation of ratios from 1",
    "ddpo/clip_fraction": "share of clipped ratios",
    "dpo/agreement": "share of pairs in the right order",
    "mixgrpo/ratio_deviation": "deviation of ratios from 1",
    "mixgrpo/clip_fraction": "share of clipped ratios",
    "awm/ratio_deviation": "deviation of ratios from 1",
    "awm/clip_fraction": "share of clipped ratios",
    "nft/drift": "squared distance from the old policy",
    "leap/middle": "how far the first leap misses the rollout",
    "leap/end": "how far the second leap misses the clip",
    "srpo/recovery": "how far the recovered clip is from the clip",
}
"""What methods log besides, and what it is called."""


def _training_charts(run: RunData) -> Iterator[Chart]:
    skipped = [float(record["step"]) for record in run.records if record.get("skipped")]
    scores = sorted({key for record in run.records for key in record if key.startswith("score/")})
    named = [("reward", "reward"), *((key, f"score {key.removeprefix('score/')}") for key in scores)]
    if len(scores) == 1 and run.series("reward") == run.series(scores[0]):
        named = [("reward", f"reward = {scores[0].removeprefix('score/')}")]
    scaled = sorted({key for record in run.records for key in record if key.startswith("normalized/")})
    named += [(key, f"score {key.removeprefix('normalized/')}, in spreads from its mean") for key in scaled]
    named += [("loss", "loss"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate")]
    logged = {key for record in run.records for key in record}
    named += [(key, title) for key, title in _OF_METHODS.items() if key in logged]
    for key, title in named:
        series = run.series(key)
        if series:
            yield training_chart(title, series, skipped, log=key == "grad_norm", exact=key == "learning_rate")


def _versions(run: RunData) -> list[tuple[str, str]]:
    """What ran the run: packages first, then the rest of environment.json that is one value."""
    versions = run.environment.get("versions")
    rows = [(str(key), str(value)) for key, value in versions.items()] if isinstance(versions, dict) else []
    rest = [(key, value) for key, value in run.environment.items() if isinstance(value, str | int | float)]
    return rows + [(key, str(value)) for key, value in rest]
