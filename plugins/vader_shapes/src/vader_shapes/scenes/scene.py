"""What a clip of the scenes shows, and the values that its parts may take.

A scene is of one of five kinds. `one` is the world of one object as `vader_shapes.world` has it; `single` adds size and
speed; `count` shows one to three equal objects; `relation` two objects beside each other; `passing` an object that
passes behind or in front of another. What a prompt does not say is free.
"""

from __future__ import annotations

from dataclasses import dataclass

from vader_shapes import world

FRAMES, SIZE = world.FRAMES, world.SIZE
KINDS = ("one", "single", "count", "relation", "passing")
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = world.COLOURS | {"cyan": (0.10, 0.80, 0.85)}
BACKGROUNDS = world.BACKGROUNDS
DIRECTIONS = world.MOTIONS
STILL = "still"
SIZES: dict[str, tuple[float, float]] = {"small": (4.0, 4.5), "large": (6.0, 6.6)}  # radius in pixels
SPEEDS: dict[str, float] = {"slowly": 4.0, "quickly": 8.0}  # pixels between the first and the last centre
COUNTS = {"one": 1, "two": 2, "three": 3}
SIDES = {"left of": (-1.0, 0.0), "right of": (1.0, 0.0), "above": (0.0, -1.0), "below": (0.0, 1.0)}
ORDERS = ("behind", "in front of")
RELATIONS = (*SIDES, *ORDERS)


@dataclass(frozen=True, order=True)
class Thing:
    """One of a scene's objects: its looks. `size` is `None` where the prompt does not say it."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True, order=True)
class Scene:
    """What a prompt says about a clip; `None` is what it does not say.

    `things` holds one, or two of which the first has `relation` to the second. `motion` is a direction or "still"; in a
    relation both have it, in a passing the first alone.
    """

    kind: str
    things: tuple[Thing, ...]
    background: str
    motion: str
    speed: str | None = None
    count: str | None = None
    relation: str | None = None

    @property
    def objects(self) -> int:
        """How many objects the clip shows."""
        return len(self.things) if self.count is None else COUNTS[self.count]
