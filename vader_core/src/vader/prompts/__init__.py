"""Built-in prompt sources, registered through the same entry points as anyone's."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vader.protocols import Prompt


def draw_evenly(prompts: Sequence[Prompt], n: int, rng: random.Random) -> list[Prompt]:
    """``n`` of ``prompts`` in random order; none comes twice before every one has come once."""
    drawn: list[Prompt] = []
    while len(drawn) < n:
        deck = list(prompts)
        rng.shuffle(deck)
        drawn += deck
    return drawn[:n]
