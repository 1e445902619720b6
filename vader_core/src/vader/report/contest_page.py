"""One page about several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vader.errors import RunFolderError
from vader.report.charts import Chart, Point, overlay_chart, smoothed
from vader.report.clips import BUDGET, TYPES, Media, media, size_asked_for
from vader.report.comparison import score_is_binary, score_keys, values_of
from vader.report.contest import Contestant, contestants, cost_table, same_clips, spec_differences, standings
from vader.report.numbers import plain
from vader.report.page import fill, write_page
from vader.report.statistics import mean

MOST = 8
"""Runs on one page; more cannot be told apart."""
_COURSES = ("reward", "loss", "grad_norm", "kl", "time/step")
_TITLES = {"grad_norm": "gradient norm", "kl": "divergence from the base", "time/step": "seconds an optimizer step"}


def write_comparison(folders: Sequence[Path], path: Path) -> Path:
    """Write a page that compares runs: scores, curves, clips, specs.

    Args:
        folders: of the runs, two to eight; scores are compared with the first one's.
        path: of the HTML file.

    Raises:
        RunFolderError: a folder is not one of a run, there are too few or too many, or the page cannot be written.
    """
    if not 2 <= len(folders) <= MOST:
        raise RunFolderError(f"{len(folders)} run{'s' * (len(folders) != 1)} given; expected 2 to {MOST} to compare.")
    return write_page(path, render(contestants(folders)))


def render(runs: Sequence[Contestant]) -> str:
    """The page as HTML."""
    cards, left_out = _cards(runs)
    return fill(
        "contest.html",
        runs=runs,
        standings=standings(runs),
        validation_charts=list(_validation_charts(runs)),
        training_charts=list(_training_charts(runs)),
        cards=cards,
        left_out=left_out,
        wide=any(not shown.media.tiny for card in cards for shown in card.shown),
        costs=cost_table(runs),
        differences=spec_differences(runs),
    )


def _validation_charts(runs: Sequence[Contestant]) -> Iterator[Chart]:
    keys = dict.fromkeys(key for one in runs for key in score_keys(one.run))
    for key in keys:
        courses = []
        for one in runs:
            series = [(validation.step, values_of(validation, key)) for validation in one.run.validations]
            points = [Point(step, mean(values)) for step, values in series if values]
            if points:
                courses.append((one.number, points))
        if courses:
            yield overlay_chart(key, courses, dots=True, percent=all(score_is_binary(one.run, key) for one in runs))


def _training_charts(runs: Sequence[Contestant]) -> Iterator[Chart]:
    for key in _COURSES:
        courses = [(one.number, smoothed(series)) for one in runs if (series := one.run.series(key))]
        if courses:
            yield overlay_chart(_TITLES.get(key, key), courses, dots=False)


@dataclass(frozen=True)
class ShownMedia:
    """A clip on a card."""

    media: Media
    number: int
    """Of its run's colour."""
    scores: str


@dataclass(frozen=True)
class ContestCard:
    """A prompt with the clips of every run."""

    prompt: str
    seed: int
    shown: tuple[ShownMedia, ...]


def _cards(runs: Sequence[Contestant]) -> tuple[list[ContestCard], int]:
    """Cards up to the size budget, and how many did not fit."""
    cards: list[ContestCard] = []
    left_out, spent = 0, 0
    for clip, row in same_clips(runs):
        if any(shown.path.suffix.lower() not in TYPES for shown in row):
            continue
        spent += sum(shown.path.stat().st_size for shown in row)
        if spent > BUDGET:
            left_out += 1
            continue
        made = []
        for shown in row:
            last = shown.contestant.last
            size = (last.size if last else None) or size_asked_for(shown.contestant.run)
            label = f"{shown.label} \N{MIDDLE DOT} step {shown.step}"
            scores = ", ".join(f"{key} {plain(value)}" for key, value in shown.clip.scores.items())
            made.append(ShownMedia(media(label, shown.path, size), shown.contestant.number, scores))
        cards.append(ContestCard(clip.prompt, clip.seed, tuple(made)))
    return cards, left_out
