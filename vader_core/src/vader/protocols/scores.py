"""What a reward gives: one score a clip, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vader.errors import cut

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
        ValueError: a mapping without :data:`SCORE`, or scores that are no floating-point tensor ``(clips,)``.
    """
    named = dict(given) if isinstance(given, Mapping) else {SCORE: given}
    if SCORE not in named:
        names = ", ".join(cut(str(name), plain=True) for name in list(named)[:12])
        raise ValueError(f"gave scores called {names or 'nothing'}; expected one called {SCORE!r}.")
    for name, score in named.items():
        which = "scores" if name == SCORE else f"scores {cut(name)}"
        _require_scores(score, which, clips)
    score = named.pop(SCORE)
    return score, {name: part.detach() for name, part in named.items()}


def _require_scores(given: Any, which: str, clips: int) -> None:
    expected = f"expected a floating-point tensor of shape ({clips},), one score a clip"
    floating = getattr(getattr(given, "dtype", None), "is_floating_point", None)  # torch is not imported to ask
    if floating is None:
        found = "None" if given is None else f"a {type(given).__name__}, {cut(given)}"
        raise ValueError(f"gave {which} that are no tensor but {found}; {expected}.")
    if tuple(given.shape) != (clips,):
        raise ValueError(f"gave {which} of shape {tuple(given.shape)}; expected ({clips},), one a clip.")
    if not floating:
        raise ValueError(f"gave {which} of {given.dtype}; {expected}. Convert them with .float().")
