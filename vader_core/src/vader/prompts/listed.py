"""Prompts written in the spec."""

from __future__ import annotations

import random

from pydantic import Field

from vader.prompts import draw_evenly
from vader.protocols import Prompt
from vader.spec import Options


class ListOptions(Options):
    """Options of :class:`ListPrompts`."""

    prompts: tuple[str, ...] = Field(min_length=1, description="The prompts.")


class ListPrompts:
    """Draws from the prompts given in its options."""

    Options = ListOptions

    def __init__(self, options: ListOptions) -> None:
        self._prompts = [Prompt(text) for text in options.prompts]

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.protocols.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)
