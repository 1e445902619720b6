"""Prompts of the scenes: from a scene to its sentence and back."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
    Thing,
)

EXAMPLES = {
    "one": "a red circle moving left on a black background",
    "single": "a small red circle moving left slowly on a black background",
    "count": "two red circles moving left slowly on a black background",
    "relation": "a red circle left of a blue square both moving up on a black background",
    "passing": "a red circle moving left passing behind a blue square on a black background",
}


def plural(shape: str) -> str:
    """More than one of a shape."""
    return shape + ("es" if shape.endswith("s") else "s")


def prompt(scene: Scene) -> str:
    """The sentence of a scene, in the form that `EXAMPLES` shows for its kind."""
    first, last = scene.things[0], scene.things[-1]
    motion = "standing still" if scene.motion == STILL else f"moving {scene.motion}"
    moving = motion if scene.speed is None else f"{motion} {scene.speed}"
    if scene.kind == "count":
        shape = first.shape if scene.count == "one" else plural(first.shape)
        said = f"{scene.count} {first.colour} {shape} {moving}"
    elif scene.kind == "relation":
        said = f"a {first.colour} {first.shape} {scene.relation} a {last.colour} {last.shape} both {moving}"
    elif scene.kind == "passing":
        said = f"a {first.colour} {first.shape} {moving} passing {scene.relation} a {last.colour} {last.shape}"
    else:
        size = "" if first.size is None else f"{first.size} "
        said = f"a {size}{first.colour} {first.shape} {moving}"
    return f"{said} on a {scene.background} background"


def vocabulary() -> list[str]:
    """Every word of the prompts, specials first (`<pad>` is 0, `</s>` 1, `<unk>` 2)."""
    words = ["a", "moving", "standing", STILL, "both", "passing", "on", "background", *COLOURS, *SHAPES]
    words += [*map(plural, SHAPES), *SIZES, *DIRECTIONS, *SPEEDS, *BACKGROUNDS, *COUNTS]
    words += [word for relation in (*SIDES, *ORDERS) for word in relation.split()]
    return ["<pad>", "</s>", "<unk>", *dict.fromkeys(words)]


def _one_of(name: str, values: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(map(re.escape, values))})"


def _thing(number: str) -> str:
    return f"{_one_of('colour' + number, COLOURS)} {_one_of('shape' + number, SHAPES)}"


SHAPE_OF = {word: shape for shape in SHAPES for word in (shape, plural(shape))}
"""One or more of a shape -> the shape."""
_COUNTED = "(?P<shape>" + "|".join([*SHAPES, *map(plural, SHAPES)]) + ")"
_MOVING = f"(standing (?P<still>{STILL})|moving {_one_of('motion', DIRECTIONS)}"
_END = f" on an? {_one_of('background', BACKGROUNDS)} background"
_SPEED = f" {_one_of('speed', SPEEDS)})"
_FORMS = {
    "one": f"an? {_one_of('colour', world.COLOURS)} {_one_of('shape', world.SHAPES)} {_MOVING})",
    "single": f"an? {_one_of('size', SIZES)} {_thing('')} {_MOVING}{_SPEED}",
    "count": f"{_one_of('count', COUNTS)} {_one_of('colour', COLOURS)} {_COUNTED} {_MOVING}{_SPEED}",
    "relation": f"an? {_thing('')} {_one_of('relation', SIDES)} an? {_thing('2')} both {_MOVING})",
    "passing": f"an? {_thing('')} moving {_one_of('motion', DIRECTIONS)} passing {_one_of('relation', ORDERS)} "
    f"an? {_thing('2')}",
}
_PATTERNS = {kind: re.compile(form + _END) for kind, form in _FORMS.items()}


def parse(text: str) -> Scene:
    """Reads a prompt back into its scene.

    Raises:
        ValueError: if it is no sentence of the grammar.
    """
    plain = " ".join(text.lower().split()).rstrip(".")
    for kind, pattern in _PATTERNS.items():
        if (match := pattern.fullmatch(plain)) is not None and (scene := _scene(kind, match.groupdict())) is not None:
            return scene
    forms = "; ".join(repr(example) for example in EXAMPLES.values())
    raise ValueError(f"not a prompt of the scenes: {text!r}; expected one of the forms {forms}")


def _scene(kind: str, said: dict[str, str | None]) -> Scene | None:
    """`None` where the words match but do not agree: a plural of one, two objects of one colour."""
    shape, count, colour = str(said["shape"]), said.get("count"), str(said["colour"])
    if kind == "one" and said.get("still"):
        return None
    if count is not None and (shape in SHAPES) != (count == "one"):
        return None
    things = [Thing(colour, SHAPE_OF[shape], said.get("size"))]
    if said.get("colour2") is not None:
        if said["colour2"] == colour:
            return None
        things.append(Thing(str(said["colour2"]), str(said["shape2"])))
    motion = said.get("still") or str(said["motion"])
    return Scene(kind, tuple(things), str(said["background"]), motion, said.get("speed"), count, said.get("relation"))
