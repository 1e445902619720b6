"""What a reward gives: one score a clip, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vader.shapes import Scores

SCORE = "score"
"""In a mapping that a reward gives, the score that counts; every other one is a part that is logged beside it."""


def score_and_parts(given: Scores | Mapping[str, Scores], clips: int) -> tuple[Scores, dict[str, Scores]]:
    """The score that counts, and its parts without their graph.

    Args:
        given: by a reward.
        clips: how many it was given.

    Raises:
        ValueError: a mapping without :data:`SCORE`, or scores of another shape than ``(clips,)``.
    """
    named = dict(given) if isinstance(given, Mapping) else {SCORE: given}
    if SCORE not in named:
        raise ValueError(f"gave scores called {', '.join(named) or 'nothing'}; expected one called {SCORE!r}.")
    for name, score in named.items():
        if tuple(score.shape) != (clips,):
            which = "scores" if name == SCORE else f"scores {name!r}"
            raise ValueError(f"gave {which} of shape {tuple(score.shape)}; expected ({clips},), one a clip.")
    score = named.pop(SCORE)
    return score, {name: part.detach() for name, part in named.items()}
