"""A reward relative to itself: the same clip scored for two prompts (SRPO, arXiv 2509.06942, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vader.errors import ComponentError
from vader.protocols import Prompt

if TYPE_CHECKING:
    from vader.shapes import Scores

_PLACE = "{prompt}"
Ask = Callable[[Sequence[Prompt]], Mapping[str, "Scores"]]


@dataclass(frozen=True)
class Contrast:
    """``(1 + k) r(clip, prompt with the positive phrase) - r(clip, prompt with the negative phrase)``.

    Args:
        positive: phrase in front of the prompt; or a text with ``{prompt}`` in it.
        negative: likewise.
        k: at least 0.
    """

    positive: str
    negative: str
    k: float = 0.0

    def score(self, ask: Ask, prompts: Sequence[Prompt]) -> dict[str, Scores]:
        """Scores ``(b,)`` by name.

        Args:
            ask: gives a reward's scores of ``b`` clips for these prompts. It is asked twice.
            prompts: of the clips.

        Raises:
            ComponentError: the two have other names.
        """
        positive = ask([phrased(self.positive, prompt) for prompt in prompts])
        negative = ask([phrased(self.negative, prompt) for prompt in prompts])
        if set(positive) != set(negative):
            names = " and ".join(", ".join(sorted(one)) for one in (positive, negative))
            raise ComponentError(f"a reward with a contrast gave scores called {names}; expected the same names twice.")
        return {name: (1 + self.k) * score - negative[name] for name, score in positive.items()}


def phrased(phrase: str, prompt: Prompt) -> Prompt:
    """A prompt with a phrase in its text; what else it holds stays."""
    text = phrase.replace(_PLACE, prompt.text) if _PLACE in phrase else f"{phrase} {prompt.text}"
    return replace(prompt, text=text)
