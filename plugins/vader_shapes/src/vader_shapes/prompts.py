"""Prompts of the shapes world."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from vader import Options, Prompt
from vader.sdk import draw_evenly


class ShapesPromptsOptions(Options):
    """Options of :class:`ShapesPrompts`."""

    split: Literal["train", "held_out", "all"] = Field(
        "train", description="Attribute combinations that the base model was trained on, those it never saw, or all."
    )


class ShapesPrompts:
    """Draws prompts of the shapes world, with their attributes as metadata."""

    Options = ShapesPromptsOptions

    def __init__(self, options: ShapesPromptsOptions) -> None:
        from vader_shapes import world

        splits = {
            "train": world.train_combinations,
            "held_out": world.held_out_combinations,
            "all": world.all_combinations,
        }
        self._prompts = [Prompt(world.prompt(one), vars(one)) for one in splits[options.split]()]

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)
