"""Prompt sources that are wrong in one way each: the check that must catch it -> the source.

The one that depends on the hash seed is named by its file, so that another process can make it too.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

from vader import Options, Prompt

TEXTS = ("a red circle", "a blue square", "a green triangle", "a fox", "a boat")
_COUNTER = itertools.count()


class Sound:
    """Keeps the contract."""

    Options = Options

    def __init__(self, options: Any) -> None:
        pass

    @classmethod
    def named_sets(cls) -> Any:
        """All of them."""
        return {"shapes": [Prompt(text) for text in TEXTS[:3]], "others": [Prompt(text) for text in TEXTS[3:]]}

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """``n`` prompts."""
        return [Prompt(text, {"letters": len(text)}) for text in rng.choices(TEXTS, k=n)]


class Texts(Sound):
    def draw(self, n: int, rng: random.Random) -> Any:
        return rng.choices(TEXTS, k=n)


class Blank(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        return [Prompt(text) for text in rng.choices((*TEXTS, "  "), k=n)]


class SetInMetadata(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        return [Prompt(text, {"words": set(text.split())}) for text in rng.choices(TEXTS, k=n)]


class OwnSeed(Sound):
    def __init__(self, options: Any) -> None:
        self._salt = next(_COUNTER)

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        return super().draw(n, random.Random(rng.random() + self._salt))


class Counting(Sound):
    drawn = 0

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        self.drawn += n
        return [Prompt(TEXTS[(i + self.drawn + rng.randrange(5)) % len(TEXTS)]) for i in range(n)]


class Unseeded(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        rng.random()
        return [Prompt(text) for text, _ in zip(itertools.cycle(TEXTS), range(n), strict=False)]


class Copying(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        copy = random.Random()
        copy.setstate(rng.getstate())
        return super().draw(n, copy)


class Global(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        random.random()
        return super().draw(n, rng)


class Unordered(Sound):
    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        return [Prompt(text) for text in rng.choices(list(set(TEXTS)), k=n)]


class EmptySet(Sound):
    @classmethod
    def named_sets(cls) -> Any:
        return {**super().named_sets(), "none": []}


MUTANTS: dict[str, Any] = {
    "draws_are_lists_of_prompts": Texts,
    "prompts_have_text": Blank,
    "metadata_is_json": SetInMetadata,
    "draws_are_seeded": OwnSeed,
    "draws_have_no_memory": Counting,
    "seeds_matter": Unseeded,
    "draws_go_on": Copying,
    "global_random_state_is_left_alone": Global,
    "named_sets_hold_prompts": EmptySet,
    "processes_agree": f"{Path(__file__).resolve()}:Unordered",
}
