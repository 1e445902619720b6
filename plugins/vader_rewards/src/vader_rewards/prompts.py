"""Prompt sources: a noun with an activity, and named sets."""

from __future__ import annotations

import random
import re
from itertools import product
from pathlib import Path

from pydantic import Field, field_validator

from vader import Options, Prompt
from vader.prompts import draw_evenly
from vader.prompts.file import read_prompts

SETS = Path(__file__).parent / "prompt_sets"
_SPOKEN_VOWEL = re.compile(r"(?:hour|honest|honou?r|heir)", re.IGNORECASE)
_SPOKEN_CONSONANT = re.compile(r"(?:uni(?!n|m)|us[aeiu]|eu|ewe|ubiq|uk|ute)", re.IGNORECASE)
_HAS_ARTICLE = re.compile(
    r"(?:an?|the|one|two|three|four|five|six|seven|eight|nine|ten|some|several|many|\d+)\b", re.IGNORECASE
)


class NounsActivitiesOptions(Options):
    """Options of :class:`NounsActivities`."""

    nouns: str = Field(
        min_length=1, description="Text file with one noun a line, such as cat; # starts a comment line."
    )
    activities: str = Field(
        min_length=1, description="Text file with one activity a line, such as riding a bike; # starts a comment line."
    )


class NounsActivities:
    """Every noun with every activity, with the right article: "an owl riding a bike".

    A prompt's metadata are ``object`` (the noun) and ``activity``, for rewards that ask for them.

    Raises:
        ValueError: a file cannot be read or holds no line.

    Source: the prompts of DDPO (Black et al. 2023, arXiv 2305.13301).
    """

    Options = NounsActivitiesOptions

    def __init__(self, options: NounsActivitiesOptions) -> None:
        nouns, activities = (read_prompts(Path(path)) for path in (options.nouns, options.activities))
        self._prompts = [
            Prompt(f"{with_article(noun)} {activity}", {"object": noun, "activity": activity})
            for noun, activity in product(nouns, activities)
        ]

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


class PromptSetOptions(Options):
    """Options of :class:`PromptSet`."""

    sets: tuple[str, ...] = Field(min_length=1, description="Names of the sets, such as animals.")

    @field_validator("sets")
    @classmethod
    def _known(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        known = set_names()
        unknown = [name for name in sets if name not in known]
        if unknown:
            raise ValueError(f"no set is called {', '.join(map(repr, unknown))}; there are {', '.join(known)}.")
        return sets


class PromptSet:
    """Prompts of one or more named sets; a prompt's metadata ``set`` names its own."""

    Options = PromptSetOptions

    def __init__(self, options: PromptSetOptions) -> None:
        self._prompts = [
            Prompt(text, {"set": name}) for name in dict.fromkeys(options.sets) for text in prompts_of(name)
        ]

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


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
