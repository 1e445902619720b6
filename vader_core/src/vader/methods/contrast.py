"""A reward relative to itself: the same clip scored for two prompts (SRPO, arXiv 2509.06942, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vader.protocols import SCORE, Prompt, Reward

if TYPE_CHECKING:
    from vader.shapes import Frames, Scores

_PLACE = "{prompt}"


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

    def score(self, reward: Reward, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Scores]:
        """``(b f c h w)`` in [0, 1] and ``b`` prompts -> scores ``(b,)`` by name. The reward is asked twice."""
        positive = _named(reward.score(frames, [phrased(self.positive, prompt) for prompt in prompts]))
        negative = _named(reward.score(frames, [phrased(self.negative, prompt) for prompt in prompts]))
        return {name: (1 + self.k) * score - negative[name] for name, score in positive.items()}


def _named(given: Scores | Mapping[str, Scores]) -> Mapping[str, Scores]:
    return given if isinstance(given, Mapping) else {SCORE: given}


def phrased(phrase: str, prompt: Prompt) -> Prompt:
    """A prompt with a phrase in its text; what else it holds stays."""
    text = phrase.replace(_PLACE, prompt.text) if _PLACE in phrase else f"{phrase} {prompt.text}"
    return replace(prompt, text=text)
