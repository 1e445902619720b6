"""What prompts say of a clip, as numbers: for each colour an object's properties, and what holds for the whole clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch
from torch import Tensor

from vader_shapes.scenes.grammar import SHAPE_OF
from vader_shapes.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    STILL,
)

NOTHING = -1  # where a prompt says nothing
VALUES: dict[str, list[str]] = {
    "number": list(COUNTS),
    "shape": list(SHAPES),
    "size": list(SIZES),
    "motion": [*DIRECTIONS, STILL],
    "speed": list(SPEEDS),
}
"""Property of the objects of a colour -> its values."""
PAIRS = [(first, second) for first in COLOURS for second in COLOURS]


@dataclass(frozen=True)
class Facts:
    """What b prompts say: indices of values, `NOTHING` where nothing is said.

    Args:
        present: `(b c)`, whether there are objects of a colour: 1, or 0 for those that a prompt with others leaves out.
        properties: `(b c 5)`, of the objects of a colour, in the order of `VALUES`.
        relation: `(b p)`, of the first to the second of a pair of colours, in the order of `PAIRS`.
        background: `(b 1)`.
    """

    present: Tensor
    properties: Tensor
    relation: Tensor
    background: Tensor

    def without_shapes(self, rows: Tensor) -> Facts:
        """The same, but that `rows` `(b,)` say nothing of shapes."""
        properties = self.properties.clone()
        properties[rows, :, list(VALUES).index("shape")] = NOTHING
        return replace(self, properties=properties)

    def to(self, device: torch.device) -> Facts:
        """On a device."""
        return Facts(*(getattr(self, field.name).to(device) for field in fields(self)))


def said(prompts: Sequence[str]) -> Facts:
    """What any texts say in the words of the grammar; other words say nothing."""
    count = len(prompts)
    found = Facts(
        torch.full((count, len(COLOURS)), NOTHING),
        torch.full((count, len(COLOURS), len(VALUES)), NOTHING),
        torch.full((count, len(PAIRS)), NOTHING),
        torch.full((count, 1), NOTHING),
    )
    for row, text in enumerate(prompts):
        _read(text.lower().replace(",", " ").replace(".", " ").split(), row, found)
    return found


def _read(words: list[str], row: int, facts: Facts) -> None:
    """Enter the words of one prompt."""
    around = ["", *words, ""]
    triples = zip(around[:-2], words, around[2:], strict=True)
    things = [(before, colour, after) for before, colour, after in triples if colour in COLOURS]
    colours = list(COLOURS)
    if things:
        facts.present[row] = 0
    for place, (before, colour, after) in enumerate(things):
        one = colours.index(colour)
        facts.present[row, one] = 1
        properties = {
            "number": before if before in COUNTS else "one",
            "shape": SHAPE_OF.get(after, ""),
            "size": before,
        }
        if place == 0 or "both" in words:
            properties |= {"motion": _motion(words), "speed": next((word for word in words if word in SPEEDS), "")}
        for name, value in properties.items():
            if value in VALUES[name]:
                facts.properties[row, one, list(VALUES).index(name)] = VALUES[name].index(value)
    text = f" {' '.join(words)} "
    relation = next((i for i, name in enumerate(RELATIONS) if f" {name} " in text), NOTHING)
    if len(things) == 2:
        facts.relation[row, PAIRS.index((things[0][1], things[1][1]))] = relation
    grounds = [ground for ground, after in pairwise(words) if after == "background"]
    if grounds and grounds[-1] in BACKGROUNDS:
        facts.background[row, 0] = list(BACKGROUNDS).index(grounds[-1])


def _motion(words: list[str]) -> str:
    """The word after "moving", or "still"; "" for none."""
    if STILL in words:
        return STILL
    return next((after for word, after in pairwise(words) if word == "moving"), "")
