"""How the clips of a validation differ from each other and from the base model's: diversity and divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from vader.report.comparison import Pair, paired
from vader.report.numbers import percent, plain
from vader.report.statistics import Interval, PairedChange, mean, mean_interval, paired_change
from vader.runs.events import Validation, ValidationClip

if TYPE_CHECKING:
    import numpy as np

COLLAPSED = 0.7
"""Clips whose diversity has fallen to less than this share of the base model's look too much alike."""
DRIFTED = 1.0
"""Clips as far from the base model's, of the same prompt and seed, as those are from each other, have left them."""


@dataclass(frozen=True)
class Variety:
    """Distances between clips: root mean square over their sketches, 0 to 1."""

    diversity: PairedChange
    """Of each clip's mean distance from the others, over prompts and seeds, before and after."""
    distances: tuple[float, ...]
    """Of each clip after from itself before."""

    @property
    def divergence(self) -> float:
        """Mean of the distances."""
        return mean(self.distances)

    @cached_property
    def interval(self) -> Interval | None:
        """Of the divergence."""
        return mean_interval(self.distances)

    @property
    def collapsed(self) -> bool:
        """Whether the clips have come to look alike."""
        return self.diversity.direction < 0 and self.diversity.after < COLLAPSED * self.diversity.before

    @property
    def drifted(self) -> bool:
        """Whether the clips have left the base model's."""
        return self.diversity.before > 0 and self.divergence > DRIFTED * self.diversity.before

    @property
    def sentences(self) -> tuple[str, str]:
        """Both, in words."""
        change = self.diversity
        before, after = plain(change.before, 3), plain(change.after, 3)
        moved = f"{'rose' if change.difference > 0 else 'fell'} from {before} to {after}"
        if not change.direction or abs(change.difference) < _NOTHING * change.before:
            moved = f"is what it was: {before} before, {after} after"
        share = (
            f", {percent(self.divergence / change.before)} of the distance between clips there" if change.before else ""
        )
        return (
            f"Diversity, the mean distance between clips, {moved}.",
            f"Divergence: the clips are {plain(self.divergence, 3)} away from the base model's of the same prompts and "
            f"seeds{share}.",
        )


_NOTHING = 0.01
"""A change of diversity by less than this share is none that one could see."""


def variety(pairs: Sequence[Pair]) -> Variety | None:
    """Diversity and divergence of paired clips; None for fewer than two, or where no sketches were kept."""
    both = [(a, b) for a, b in pairs if a.sketch and b.sketch]
    if len(both) < 2 or len({len(clip.sketch or b"") for pair in both for clip in pair}) > 1:
        return None
    before, after = _sketches([a for a, _ in both]), _sketches([b for _, b in both])
    distances = ((after - before) ** 2).mean(axis=1) ** 0.5
    return Variety(paired_change(_apart(before), _apart(after)), tuple(map(float, distances)))


def spread(clips: Sequence[ValidationClip]) -> list[float]:
    """Each clip's mean distance from the others of a validation; empty where that cannot be said."""
    kept = [clip for clip in clips if clip.sketch]
    if len(kept) < 2 or len({len(clip.sketch or b"") for clip in kept}) > 1:
        return []
    return _apart(_sketches(kept))


def divergence(first: Validation, last: Validation) -> list[float]:
    """The distance of each clip from that of the same prompt and seed in an earlier validation."""
    found = variety(paired(first, last))
    return list(found.distances) if found is not None else []


def _sketches(clips: Sequence[ValidationClip]) -> np.ndarray:
    """``(clip, value)``, 0 to 1."""
    import numpy as np

    return np.stack([np.frombuffer(clip.sketch or b"", dtype=np.uint8) for clip in clips]).astype(np.float64) / 255


def _apart(sketches: np.ndarray) -> list[float]:
    """Each one's mean distance from the others."""
    import numpy as np

    squares = (sketches**2).sum(axis=1)
    between = np.clip(squares[:, None] + squares[None] - 2 * sketches @ sketches.T, 0, None) / sketches.shape[1]
    np.fill_diagonal(between, 0.0)
    return [float(value) for value in np.sqrt(between).sum(axis=1) / (len(sketches) - 1)]
