"""Scores by kind of prompt, before and after, where the prompts are of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vader.report.comparison import Comparison, Pair, Score, progress_of
from vader.report.numbers import ChangeText
from vader.report.statistics import PairedChange, paired_change


@dataclass(frozen=True)
class KindLine:
    """A score over the clips of one kind of prompt."""

    kind: str
    change: PairedChange
    progress: int
    """As :attr:`vader.report.comparison.Score.progress`."""

    @property
    def text(self) -> ChangeText:
        """Its numbers, written out."""
        return ChangeText(self.change)


@dataclass(frozen=True)
class KindTable:
    """One score, a line for each kind."""

    label: str
    lines: tuple[KindLine, ...]


def by_kind(comparison: Comparison | None) -> list[KindTable]:
    """A table for each score; nothing where fewer than two kinds are told apart."""
    if comparison is None or comparison.after is None:
        return []
    kinds = list(dict.fromkeys(before.kind for before, _ in comparison.pairs if before.kind is not None))
    if len(kinds) < 2:
        return []
    tables = [KindTable(score.label, tuple(_lines(score, kinds, comparison.pairs))) for score in comparison.scores]
    return [table for table in tables if table.lines]


def _lines(score: Score, kinds: Sequence[str], pairs: Sequence[Pair]) -> list[KindLine]:
    lines = []
    for kind in kinds:
        both = [
            (a.scores[score.key], b.scores[score.key])
            for a, b in pairs
            if a.kind == kind and score.key in a.scores and score.key in b.scores
        ]
        if both:
            before, after = [a for a, _ in both], [b for _, b in both]
            lines.append(KindLine(kind, paired_change(before, after), progress_of(before, after, score.target)))
    return lines
