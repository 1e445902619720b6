"""Before against after: the first validation and that of the kept adapter, clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vader.report.numbers import ChangeText, plain
from vader.report.reading import RunData
from vader.report.statistics import PairedChange, is_binary, mean, paired_change
from vader.runs import early_stop
from vader.runs.events import Validation, ValidationClip
from vader.spec import RewardSpec

Role = Literal["trained", "held-out"]
Pair = tuple[ValidationClip, ValidationClip]


@dataclass(frozen=True)
class Score:
    """A raw score over the validation clips, before and after."""

    key: str
    role: Role
    """``trained``: the loss contains it. ``held-out``: it is only measured."""
    target: float | None
    """The score to come near to; None when higher is better."""
    change: PairedChange
    progress: int
    """1 when it came significantly nearer to what is wanted, -1 when it went away, 0 for neither."""

    @property
    def text(self) -> ChangeText:
        """Its numbers, written out."""
        return ChangeText(self.change)

    @property
    def label(self) -> str:
        """Its name, with the target if there is one."""
        return self.key if self.target is None else f"{self.key} (target {plain(self.target)})"


@dataclass(frozen=True)
class Comparison:
    """Two validations of the same clips; ``after`` is None when there is only one."""

    before: Validation
    after: Validation | None
    pairs: tuple[Pair, ...]
    scores: tuple[Score, ...]


def compare(run: RunData) -> Comparison | None:
    """The kept adapter's validation against the earliest that made the same clips; None without any validation."""
    if not run.validations:
        return None
    stop = run.spec.train.early_stop if run.spec else None
    last = early_stop.best(stop, run.validations) if stop is not None else run.validations[-1]
    for first in (validation for validation in run.validations if validation.step < last.step):
        pairs = paired(first, last)
        if pairs:
            return Comparison(first, last, pairs, _scores(run, pairs))
    return Comparison(last, None, (), ())


def trained_rewards(run: RunData) -> dict[str, RewardSpec]:
    """The rewards that the loss contains, by key."""
    return {reward.key: reward for reward in run.spec.rewards if reward.weight > 0} if run.spec else {}


def role_of(run: RunData, key: str) -> Role:
    """Whether a score, or what it is a part of, is trained on. Without a spec, what the optimizer steps log is it."""
    if run.spec:
        trained = trained_rewards(run)
        return "trained" if any(key == name or key.startswith(f"{name}/") for name in trained) else "held-out"
    return "trained" if any(f"score/{key}" in record for record in run.records) else "held-out"


def score_keys(run: RunData) -> list[str]:
    """Names of all scores of the validations, trained ones first."""
    keys = {key: None for validation in run.validations for clip in validation.clips for key in clip.scores}
    return sorted(keys, key=lambda key: role_of(run, key) == "held-out")


def values_of(validation: Validation, key: str) -> list[float]:
    """A score over the clips that have it."""
    return [clip.scores[key] for clip in validation.clips if key in clip.scores]


def score_is_binary(run: RunData, key: str) -> bool:
    """Whether a score is 0 or 1 in every clip of every validation."""
    return all(is_binary(values_of(validation, key)) for validation in run.validations)


def paired(first: Validation, last: Validation) -> tuple[Pair, ...]:
    """Clips of the same prompt and seed."""

    def identity(clip: ValidationClip) -> tuple[int, str, int]:
        return clip.index, clip.prompt, clip.seed

    after = {identity(clip): clip for clip in last.clips}
    return tuple((clip, after[identity(clip)]) for clip in first.clips if identity(clip) in after)


def _scores(run: RunData, pairs: Sequence[Pair]) -> tuple[Score, ...]:
    scores = []
    for key in score_keys(run):
        both = [(a.scores[key], b.scores[key]) for a, b in pairs if key in a.scores and key in b.scores]
        if both:
            reward = trained_rewards(run).get(key)
            scores.append(_score(key, role_of(run, key), reward.target if reward else None, both))
    return tuple(scores)


def _score(key: str, role: Role, target: float | None, both: Sequence[tuple[float, float]]) -> Score:
    before, after = [a for a, _ in both], [b for _, b in both]
    return Score(key, role, target, paired_change(before, after), progress_of(before, after, target))


def progress_of(before: Sequence[float], after: Sequence[float], target: float | None) -> int:
    """1 when paired values came significantly nearer to what is wanted, -1 when they went away, 0 for neither."""
    if target is None:
        return paired_change(before, after).direction
    return -paired_change([abs(a - target) for a in before], [abs(b - target) for b in after]).direction


@dataclass(frozen=True)
class Trend:
    """Mean of a metric over the first and the last quarter of the optimizer steps."""

    first: float
    last: float
    steps: int
    """Optimizer steps in each quarter."""


def trend(run: RunData, key: str) -> Trend | None:
    """The course of a training metric; None for fewer than two optimizer steps that have it."""
    values = [value for _, value in run.series(key)]
    if len(values) < 2:
        return None
    quarter = max(1, len(values) // 4)
    return Trend(mean(values[:quarter]), mean(values[-quarter:]), quarter)
