"""Scenes that differ from another in one thing: what a clip of that other does not show."""

from __future__ import annotations

import random
from dataclasses import replace

from vader_shapes import world
from vader_shapes.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    ORDERS,
    SHAPES,
    SIDES,
    SIZES,
    SPEEDS,
    STILL,
    Scene,
)

SHAPE = "shape"
EXCHANGE = "exchange"


def changeable(scene: Scene) -> list[str]:
    """What of a scene can be changed, `EXCHANGE` for the colours of its two things."""
    found = ["colour", SHAPE, "motion", "background"]
    found += ["size"] if scene.things[0].size is not None else []
    found += [name for name in ("speed", "count", "relation") if getattr(scene, name) is not None]
    different = len(scene.things) == 2 and scene.things[0].shape != scene.things[1].shape
    return found + ([EXCHANGE] if different else [])


def changed(scene: Scene, what: str, rng: random.Random, place: int | None = None) -> Scene:
    """The scene with another value of one of `changeable`; of the thing at `place`, or of any."""
    if what == EXCHANGE:
        first, second = scene.things
        return replace(scene, things=(replace(first, colour=second.colour), replace(second, colour=first.colour)))
    if what in ("colour", SHAPE, "size"):
        return _changed_thing(scene, what, rng, rng.randrange(len(scene.things)) if place is None else place)
    if what == "motion":
        still = [STILL] if scene.kind == "relation" else []
        if scene.motion == STILL and scene.kind in ("single", "count"):
            return replace(scene, motion=rng.choice(list(DIRECTIONS)), speed=rng.choice(list(SPEEDS)))
        return replace(scene, motion=_other(scene.motion, [*DIRECTIONS, *still], rng))
    values = {"speed": SPEEDS, "count": COUNTS, "background": BACKGROUNDS}.get(what)
    if values is None:
        values = dict.fromkeys(ORDERS) if scene.kind == "passing" else SIDES
    return replace(scene, **{what: _other(str(getattr(scene, what)), list(values), rng)})


def _changed_thing(scene: Scene, what: str, rng: random.Random, place: int) -> Scene:
    """One of the things with another colour, shape or size, as the scene's kind may have it."""
    things = list(scene.things)
    one = scene.kind == "one"
    taken = {thing.colour for thing in things}
    values = {
        "colour": [colour for colour in (world.COLOURS if one else COLOURS) if colour not in taken],
        SHAPE: list(world.SHAPES if one else SHAPES),
        "size": list(SIZES),
    }[what]
    things[place] = replace(things[place], **{what: _other(str(getattr(things[place], what)), values, rng)})
    return replace(scene, things=tuple(things))


def _other(value: str, values: list[str], rng: random.Random) -> str:
    return rng.choice([one for one in values if one != value])
