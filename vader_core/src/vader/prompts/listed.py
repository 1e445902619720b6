"""Prompts written in the spec."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from vader.prompts import draw_evenly, draw_weighted
from vader.prompts.rows import PromptRow
from vader.protocols import Prompt
from vader.spec import Options


def _row(value: Any) -> Any:
    """A text is short for a row."""
    return {"text": value} if isinstance(value, str) else value


Row = Annotated[PromptRow, BeforeValidator(_row, json_schema_input_type=str | PromptRow)]


class ListOptions(Options):
    """Options of :class:`ListPrompts`."""

    prompts: tuple[Row, ...] = Field(
        min_length=1,
        description="The prompts: texts, or rows with text and perhaps image (relative to the working directory), "
        "weight and metadata.",
    )


class ListPrompts:
    """Draws from the prompts given in its options, each as often as its weight says.

    Raises:
        ValueError: an image cannot be read.
    """

    Options = ListOptions

    def __init__(self, options: ListOptions) -> None:
        rows = options.prompts
        self._prompts = [row.prompt(Path(), f"prompts.{index}") for index, row in enumerate(rows)]
        self._weights = [row.weight for row in rows]

    def held(self) -> Sequence[Prompt]:
        """See :class:`vader.protocols.HoldsPrompts`."""
        return self._prompts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.protocols.PromptSource`."""
        if len(set(self._weights)) == 1:
            return draw_evenly(self._prompts, n, rng)
        return draw_weighted(self._prompts, self._weights, n, rng)
