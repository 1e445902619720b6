"""Which scenes a model is trained on, and which combinations it never sees: pairs, counts and relations.

Never in training, in any scene: four pairs of colour and shape; two pairs of number and shape; for each relation four
of the 16 ordered pairs of shapes. Of the one-object prompts, those that `world` holds out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import zip_longest

from vader_shapes import world
from vader_shapes.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    KINDS,
    ORDERS,
    RELATIONS,
    SHAPES,
    SIDES,
    SIZES,
    SPEEDS,
    STILL,
    Scene,
    Thing,
)

PAIRS = {("cyan", "square"), ("cyan", "triangle"), ("red", "diamond"), ("blue", "diamond")}
NUMBERS = {("two", "triangle"), ("three", "square")}
SHARES = {"one": 0.15, "single": 0.2, "count": 0.2, "relation": 0.25, "passing": 0.2}  # of the training clips
HELD_OUT_EACH, TRAIN_EACH = 48, 240  # prompts of a kind in the splits; `one` has 36 and 144


def unseen_relation(relation: str | None, first: str, second: str) -> bool:
    """Whether two shapes never stand in a relation in training."""
    if relation is None:
        return False
    return (SHAPES.index(first) + 2 * SHAPES.index(second) + RELATIONS.index(relation)) % len(SHAPES) == 0


def unseen(scene: Scene) -> frozenset[str]:
    """What of a scene never occurs in training: some of "pair", "count", "relation", "one"; empty for training."""
    found = {"pair"} if any((thing.colour, thing.shape) in PAIRS for thing in scene.things) else set()
    shapes = [thing.shape for thing in scene.things]
    if (scene.count, shapes[0]) in NUMBERS:
        found.add("count")
    if unseen_relation(scene.relation, shapes[0], shapes[-1]):
        found.add("relation")
    if scene.kind == "one" and attributes(scene) in world.held_out_combinations():
        found.add("one")
    return frozenset(found)


def attributes(scene: Scene) -> world.Attributes:
    """A scene of the kind `one` as the world of one object has it."""
    thing = scene.things[0]
    return world.Attributes(thing.shape, thing.colour, scene.motion, scene.background)


def scene_of(one: world.Attributes) -> Scene:
    """The inverse of `attributes`."""
    return Scene("one", (Thing(one.colour, one.shape),), one.background, one.motion)


def draw(kind: str, rng: random.Random) -> Scene:
    """A scene of a kind, seen in training or not; every value has the same chance."""
    if kind == "one":
        return scene_of(rng.choice(world.all_combinations()))
    colours, background = rng.sample(list(COLOURS), 2), rng.choice(list(BACKGROUNDS))
    shapes = [rng.choice(SHAPES) for _ in range(2)]
    two = tuple(Thing(colour, shape) for colour, shape in zip(colours, shapes, strict=True))
    motion = rng.choice([*DIRECTIONS, STILL])
    speed = None if motion == STILL else rng.choice(list(SPEEDS))
    if kind == "single":
        return Scene(kind, (Thing(colours[0], shapes[0], rng.choice(list(SIZES))),), background, motion, speed)
    if kind == "count":
        return Scene(kind, two[:1], background, motion, speed, count=rng.choice(list(COUNTS)))
    if kind == "relation":
        return Scene(kind, two, background, motion, relation=rng.choice(list(SIDES)))
    return Scene(kind, two, background, rng.choice(list(DIRECTIONS)), relation=rng.choice(ORDERS))


def draw_training(rng: random.Random, kind: str | None = None) -> Scene:
    """A scene that training may see; of a kind drawn by `SHARES` unless it is given."""
    kind = kind or rng.choices(list(SHARES), list(SHARES.values()))[0]
    while unseen(scene := draw(kind, rng)):
        pass
    return scene


def training_scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes that training may see, kinds by their `SHARES`."""
    rng = random.Random(f"scenes {seed}")
    return [draw_training(rng) for _ in range(count)]


def any_scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes, also of combinations that the model's training never sees."""
    rng = random.Random(f"any scenes {seed}")
    return [draw(kind, rng) for kind in rng.choices(list(SHARES), list(SHARES.values()), k=count)]


def train_split(kind: str) -> list[Scene]:
    """The fixed training prompts of a kind, each once."""
    if kind == "one":
        return [scene_of(one) for one in world.train_combinations()]
    rng, found = random.Random(f"train {kind}"), dict[Scene, None]()
    while len(found) < TRAIN_EACH:
        found[draw_training(rng, kind)] = None
    return list(found)


def held_out_split(kind: str) -> list[Scene]:
    """The fixed held-out prompts of a kind, each once: its own combination is unseen, and nothing else.

    That is the pair of colour and shape for `single`, the number and shape for `count`, the relation of shapes for
    `relation` and `passing`.
    """
    if kind == "one":
        return [scene_of(one) for one in world.held_out_combinations()]
    wanted = {"single": "pair", "count": "count", "relation": "relation", "passing": "relation"}[kind]
    rng, found = random.Random(f"held out {kind}"), dict[Scene, None]()
    while len(found) < HELD_OUT_EACH:
        scene = draw(kind, rng)
        if unseen(scene) == {wanted}:
            found[scene] = None
    return list(found)


def held_out_scenes() -> list[Scene]:
    """The held-out prompts of all kinds."""
    return [scene for kind in KINDS for scene in held_out_split(kind)]


def in_turn(split: Callable[[str], list[Scene]]) -> list[Scene]:
    """The scenes of a split, one of each kind after the other."""
    turns = zip_longest(*(split(kind) for kind in KINDS))
    return [scene for turn in turns for scene in turn if scene is not None]
