"""Renders scenes: layers of one coloured shape each, back to front, with edges anti-aliased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vader_shapes import world
from vader_shapes.scenes.scene import BACKGROUNDS, COLOURS, DIRECTIONS, FRAMES, SIDES, SIZE, SIZES, SPEEDS, Scene, Thing
from vader_shapes.scenes.splits import attributes

REACH = 1.25  # how far a shape reaches from its centre, relative to its radius (a triangle's tip reaches 1.44)
CLEAR = 1.15  # the same of two objects that no longer cover each other
MARGIN = 0.5  # pixels to the border at least
GAP = 2.0  # pixels between two objects at least
COUNTED_RADIUS = (3.9, 4.3)  # pixels
RELATED_RADIUS = (4.2, 4.7)
PASSING_RADIUS = (3.8, 4.2)
RELATED_TRAVEL = 4.0  # pixels, where it says a direction and no speed
TRIES = 256


@dataclass(frozen=True)
class Layer:
    """One object: its looks, radius in pixels, and centres `(f, 2)` as x, y.

    With `morph` its shape lies between its own and another: the second's share of the signed distance to the edge.
    """

    thing: Thing
    radius: float
    path: Tensor
    morph: tuple[str, float] | None = None

    def mask(self) -> Tensor:
        """Anti-aliased, `(f h w)` in [0, 1]."""
        grid = torch.arange(SIZE) + 0.5
        dx, dy = grid.view(1, 1, -1) - self.path[:, :1, None], grid.view(1, -1, 1) - self.path[:, 1:, None]
        distance = self._distance(self.thing.shape, dx, dy)
        if self.morph is not None:
            distance = torch.lerp(distance, self._distance(self.morph[0], dx, dy), self.morph[1])
        return (0.5 - distance).clamp(0, 1)

    def _distance(self, shape: str, dx: Tensor, dy: Tensor) -> Tensor:
        return world.signed_distance(shape, dx, dy, torch.tensor(self.radius * world.EXTENT_PER_RADIUS[shape]))


def render(scene: Scene, generator: torch.Generator) -> Tensor:
    """Renders one clip, `(f c h w)` = `(9, 3, 32, 32)` float32 in [0, 1]; places and sizes come from `generator`."""
    if scene.kind == "one":
        return world.render(attributes(scene), generator)
    return paint(LAYERS[scene.kind](scene, generator), scene.background)


def render_morph(scene: Scene, place: int, shape: str, share: float, generator: torch.Generator) -> Tensor:
    """`render` of a scene of two different things, or one, whose thing at `place` has a shape towards another."""
    thing = scene.things[place]
    layers = LAYERS[scene.kind](scene, generator)
    layers = [replace(layer, morph=(shape, share)) if layer.thing == thing else layer for layer in layers]
    return paint(layers, scene.background)


def render_batch(scenes: Sequence[Scene], generator: torch.Generator) -> Tensor:
    """`render` for several scenes: `(b f c h w)` float32 in [0, 1]."""
    return torch.stack([render(scene, generator) for scene in scenes])


def paint(layers: Sequence[Layer], background: str) -> Tensor:
    """`(f c h w)` in [0, 1]: the layers over a background, the last one on top."""
    clip = torch.tensor(BACKGROUNDS[background]).view(1, 3, 1, 1).expand(FRAMES, 3, SIZE, SIZE)
    for layer in layers:
        clip = clip + layer.mask().unsqueeze(1) * (torch.tensor(COLOURS[layer.thing.colour]).view(1, 3, 1, 1) - clip)
    return clip


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _straight(motion: str, travel: float) -> Tensor:
    """Offsets `(f, 2)` of a path whose middle is the origin; all zero for "still"."""
    direction = torch.tensor(DIRECTIONS.get(motion, (0.0, 0.0)))
    return torch.linspace(-travel / 2, travel / 2, FRAMES).unsqueeze(1) * direction


def _placed(offsets: Tensor, radius: float, count: int, apart: float, generator: torch.Generator) -> Tensor:
    """Paths `(count, f, 2)` at random places inside the frame, with centres at least `apart` pixels from each other."""
    reach = offsets.abs().amax(0) + radius * REACH + MARGIN  # per axis
    low, high = reach, SIZE - reach
    while True:
        middles = low + (high - low) * torch.rand(TRIES, count, 2, generator=generator)
        distance = torch.cdist(middles, middles) + 1e3 * torch.eye(count)
        good = (distance.flatten(1).amin(1) >= apart).nonzero()
        if len(good):
            return middles[good[0, 0]].unsqueeze(1) + offsets


def _equal(scene: Scene, generator: torch.Generator) -> list[Layer]:
    """One object, or several equal ones."""
    thing = scene.things[0]
    radius = _uniform(*(COUNTED_RADIUS if thing.size is None else SIZES[thing.size]), generator)
    offsets = _straight(scene.motion, SPEEDS.get(scene.speed or "", 0.0))
    paths = _placed(offsets, radius, scene.objects, 2 * REACH * radius + GAP, generator)
    return [Layer(thing, radius, path) for path in paths]


def _beside(scene: Scene, generator: torch.Generator) -> list[Layer]:
    """The first at one side of the second, both on the same way."""
    first, second = (_uniform(*RELATED_RADIUS, generator) for _ in scene.things)
    between = REACH * (first + second) + GAP + _uniform(0.0, 1.0, generator)
    side = torch.tensor(SIDES[str(scene.relation)])
    half = (between * side + _uniform(-2.0, 2.0, generator) * side.flip(0)) / 2
    way = _straight(scene.motion, RELATED_TRAVEL)
    pair = torch.cat([half + way, way - half])
    middle = _placed(pair, max(first, second), 1, 0.0, generator)[0, 0] - pair[0]
    paths = (middle + half + way, middle - half + way)
    return [Layer(thing, r, path) for thing, r, path in zip(scene.things, (first, second), paths, strict=True)]


def _passing(scene: Scene, generator: torch.Generator) -> list[Layer]:
    """The first moves across the second, which stands near the middle."""
    first, second = (_uniform(*PASSING_RADIUS, generator) for _ in scene.things)
    middle = torch.tensor([_uniform(-0.5, 0.5, generator) for _ in range(2)]) + SIZE / 2
    aside = torch.tensor(DIRECTIONS[scene.motion]).flip(0) * _uniform(-1.0, 1.0, generator)
    way = _straight(scene.motion, 2 * (CLEAR * (first + second) + 0.5))
    mover = Layer(scene.things[0], first, middle + aside + way)
    other = Layer(scene.things[1], second, middle.expand(FRAMES, 2))
    return [mover, other] if scene.relation == "behind" else [other, mover]


LAYERS = {"single": _equal, "count": _equal, "relation": _beside, "passing": _passing}
