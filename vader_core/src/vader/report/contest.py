"""Several runs side by side: who has which score, and how sure that is; whose spec says what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vader.report.comparison import Comparison, paired, role_of, score_keys, trained_rewards, values_of
from vader.report.cost import costs
from vader.report.numbers import ChangeText, mean_text
from vader.report.reading import RunData, read_run
from vader.report.statistics import PairedChange, paired_change
from vader.report.summary import Summary, judged
from vader.runs.events import Validation, ValidationClip


@dataclass(frozen=True)
class Contestant:
    """One of the runs."""

    number: int
    """Its place, and the number of its colour."""
    name: str
    run: RunData
    comparison: Comparison | None
    summary: Summary

    @property
    def last(self) -> Validation | None:
        """The validation of what the run ended with."""
        return (self.comparison.after or self.comparison.before) if self.comparison else None


@dataclass(frozen=True)
class Standing:
    """A score of one run, and what it is against the first run's."""

    score: str
    role: str
    first_of_score: bool
    contestant: Contestant
    clips: int
    mean: str
    against: PairedChange | None
    """The change from the first run, over clips of one prompt and seed; None for itself and where there are none."""
    progress: int
    """1 when it is significantly better than the first run's, -1 when worse."""

    @property
    def text(self) -> ChangeText | None:
        """The change, written out."""
        return ChangeText(self.against) if self.against is not None else None


def contestants(folders: Sequence[Path]) -> list[Contestant]:
    """The runs, with names that tell them apart.

    Raises:
        RunFolderError: a folder is not one of a run.
    """
    found = []
    for number, (folder, name) in enumerate(zip(folders, _names(folders), strict=True)):
        run = read_run(folder)
        comparison, summary = judged(run)
        found.append(Contestant(number, name, run, comparison, summary))
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of their paths that differ; numbered where one run is given twice."""
    parts = [folder.resolve().parts for folder in folders]
    longest = max(map(len, parts))
    names = ["/".join(one[-1:]) for one in parts]
    for length in range(2, longest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(one[-length:]).replace("//", "/") for one in parts]
    return names if len(set(names)) == len(names) else [f"{name} ({i + 1})" for i, name in enumerate(names)]


def standings(runs: Sequence[Contestant]) -> list[Standing]:
    """Every score of every run, score by score."""
    keys = dict.fromkeys(key for one in runs for key in score_keys(one.run))
    return [row for key in keys for row in _of_score(key, runs)]


def _of_score(key: str, runs: Sequence[Contestant]) -> Iterator[Standing]:
    first = True
    for one in runs:
        values = values_of(one.last, key) if one.last else []
        if not values:
            continue
        against = _against(key, runs[0], one) if one is not runs[0] else None
        change = against[0] if against else None
        role = role_of(one.run, key)
        yield Standing(key, role, first, one, len(values), mean_text(values), change, against[1] if against else 0)
        first = False


def _against(key: str, first: Contestant, other: Contestant) -> tuple[PairedChange, int] | None:
    """The change of a score from one run to another, and whether that is good news."""
    if first.last is None or other.last is None:
        return None
    pairs = paired(first.last, other.last)
    both = [(a.scores[key], b.scores[key]) for a, b in pairs if key in a.scores and key in b.scores]
    if not both:
        return None
    change = paired_change([a for a, _ in both], [b for _, b in both])
    reward = trained_rewards(other.run).get(key)
    if reward is None or reward.target is None:
        return change, change.direction
    distance = paired_change([abs(a - reward.target) for a, _ in both], [abs(b - reward.target) for _, b in both])
    return change, -distance.direction


@dataclass(frozen=True)
class Shown:
    """A clip of one run, or of a base model."""

    label: str
    contestant: Contestant
    step: int
    clip: ValidationClip
    path: Path


def same_clips(runs: Sequence[Contestant]) -> list[tuple[ValidationClip, list[Shown]]]:
    """Clips of one prompt and seed that at least two runs have written, the first run's before training in front."""
    rows: dict[tuple[int, str, int], list[Shown]] = {}
    base = runs[0].comparison
    sources = [("before training", runs[0], base.before)] if base and base.after else []
    sources += [(one.name, one, one.last) for one in runs if one.last is not None]
    for label, one, validation in sources:
        for clip in validation.clips:
            path = one.run.clip_path(validation.step, clip.file or "")
            if path is not None:
                shown = Shown(label, one, validation.step, clip, path)
                rows.setdefault((clip.index, clip.prompt, clip.seed), []).append(shown)
    kept = [row for row in rows.values() if len({shown.contestant.number for shown in row}) > 1]
    return [(row[0].clip, row) for row in kept]


def cost_table(runs: Sequence[Contestant]) -> list[tuple[str, list[str]]]:
    """What each run cost, cost by cost; a dash where its folder does not tell."""
    told = [dict(costs(one.run)) for one in runs]
    names = dict.fromkeys(name for one in told for name in one)
    return [(name, [one.get(name, "\N{EN DASH}") for one in told]) for name in names]


def spec_differences(runs: Sequence[Contestant]) -> list[tuple[str, list[str]]]:
    """Fields of the specs whose values differ, with each run's; ``output`` aside."""
    flat = [one.run.spec.flat() if one.run.spec else {} for one in runs]
    paths = dict.fromkeys(path for spec in flat for path in spec)
    rows = [(path, [_said(spec.get(path, _NONE)) for spec in flat]) for path in paths if path != "output"]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


_NONE = object()


def _said(value: object) -> str:
    if value is _NONE:
        return "\N{EN DASH}"
    return json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, bool) else str(value)
