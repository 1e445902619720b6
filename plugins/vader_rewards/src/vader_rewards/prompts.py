"""Prompt sources: a noun with an activity, and named sets."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from pydantic import Field, field_validator

from vader import Options, Prompt
from vader.sdk import draw_evenly, draw_weighted, read_prompts, read_weighted

SETS = Path(__file__).parent / "prompt_sets"
_SPOKEN_VOWEL = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)
_SPOKEN_CONSONANT = re.compile(r"(?:uni(?!n|m)|us[aeiu]|eu|ewe|ubiq|uk|ute)", re.IGNORECASE)
_HAS_ARTICLE = re.compile(
    r"(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|some|several|many|\d+)\b", re.IGNORECASE
)


class NounsActivitiesOptions(Options):
    """Options of :class:`NounsActivities`."""

    nouns: str = Field(
        min_length=1,
        description="Text file with one noun a line, such as cat; comments and weights as in the source `file`.",
    )
    activities: str = Field(
        min_length=1,
        description="Text file with one activity a line, such as riding a bike; comments and weights likewise.",
    )


class NounsActivities:
    """Every noun with every activity, with the right article: "an owl riding a bike".

    A prompt's metadata are ``object`` (the noun) and ``activity``, for rewards that ask for them. It is drawn as often
    as the product of its lines' weights says.

    Raises:
        ValueError: a file cannot be read, holds no line, or has a weight that is none.

    Source: the prompts of DDPO (Black et al. 2023, arXiv 2305.13301).
    """

    Options = NounsActivitiesOptions

    def __init__(self, options: NounsActivitiesOptions) -> None:
        pairs = list(product(*(read_weighted(Path(path)) for path in (options.nouns, options.activities))))
        self._prompts = [
            Prompt(f"{with_article(noun)} {activity}", {"object": noun, "activity": activity})
            for (noun, _), (activity, _) in pairs
        ]
        self._weights = [of_noun * of_activity for (_, of_noun), (_, of_activity) in pairs]

    def held(self) -> Sequence[Prompt]:
        """See :class:`vader.sdk.HoldsPrompts`."""
        return self._prompts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_weighted(self._prompts, self._weights, n, rng)


class PromptSetOptions(Options):
    """Options of :class:`PromptSet`."""

    sets: tuple[str, ...] = Field(min_length=1, description="Names of the sets, such as animals.")

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        known = set_names()
        unknown = [name for name in sets if name not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            what = ", ".join(map(repr, unknown))
            raise ValueError(f"no set is called {what}.{hint} There are {', '.join(known)}; see 'vader prompts'.")
        return sets


class PromptSet:
    """Named sets: {name: set, options: {sets: [NAME, ...]}}.

    A prompt's metadata ``set`` names its own.
    """

    Options = PromptSetOptions

    def __init__(self, options: PromptSetOptions) -> None:
        self._prompts = [prompt for name in dict.fromkeys(options.sets) for prompt in _prompts(name)]

    def held(self) -> Sequence[Prompt]:
        """See :class:`vader.sdk.HoldsPrompts`."""
        return self._prompts

    @classmethod
    def named_sets(cls) -> Mapping[str, Sequence[Prompt]]:
        """Every set, by name."""
        return {name: _prompts(name) for name in set_names()}

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


def _prompts(name: str) -> list[Prompt]:
    return [Prompt(text, {"set": name}) for text in prompts_of(name)]


def set_names() -> list[str]:
    """The named sets, sorted."""
    return sorted(path.stem for path in SETS.glob("*.txt"))


def prompts_of(name: str) -> list[str]:
    """The prompts of a named set.

    Raises:
        ValueError: for an unknown name.
    """
    return read_prompts(SETS / f"{name}.txt")


def with_article(noun: str) -> str:
    """``owl`` -> ``an owl``, ``unicorn`` -> ``a unicorn``; a noun that has an article or a number keeps it."""
    if _HAS_ARTICLE.match(noun):
        return noun
    vowel = noun[0].lower() in "aeiou" and not _SPOKEN_CONSONANT.match(noun)
    return f"{'an' if vowel or _SPOKEN_VOWEL.match(noun) else 'a'} {noun}"
