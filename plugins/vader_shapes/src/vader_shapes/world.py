"""The shapes world: short clips of one coloured shape moving over a plain background, and the prompts that name them.

A clip is 9 frames of 32x32 pixels (`f c h w`, RGB in [0, 1]). Four attributes describe it: shape, colour, motion
and background, 3 x 5 x 4 x 3 = 180 combinations, of which 36 never occur in training (`held_out_combinations`).
Everything else about a clip (size, place) is small jitter drawn from an explicit generator.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FRAMES = 9
SIZE = 32

SHAPES = ("circle", "square", "triangle")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.10, 0.20, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.75, 0.15, 0.80),
}
MOTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.05, 0.05, 0.05),
    "grey": (0.50, 0.50, 0.50),
    "white": (0.95, 0.95, 0.95),
}
VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "motion": tuple(MOTIONS),
    "background": tuple(BACKGROUNDS),
}

TRAVEL = 10.0  # pixels between the first and the last centre
RADIUS = (5.6, 6.4)  # pixels
CENTRE_JITTER = 1.0  # pixels, on each axis
EXTENT_PER_RADIUS = {"circle": 1.0, "square": 0.89, "triangle": 0.72, "diamond": 0.89}
_PATTERN = re.compile(
    r"an? (?P<colour>\w+) (?P<shape>\w+) moving (?P<motion>\w+) on an? (?P<background>\w+) background"
)


@dataclass(frozen=True, order=True)
class Attributes:
    """What a prompt says about a clip; each value is one of `VALUES`."""

    shape: str
    colour: str
    motion: str
    background: str

    def __post_init__(self) -> None:
        for name, allowed in VALUES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(allowed)}")


def prompt(attributes: Attributes) -> str:
    """The prompt of `attributes`, for example "a red circle moving left on a black background"."""
    a = attributes
    return f"a {a.colour} {a.shape} moving {a.motion} on a {a.background} background"


def parse(text: str) -> Attributes:
    """Reads a prompt back into attributes.

    Raises:
        ValueError: if the text has another form, or names a value that this world does not have.
    """
    match = _PATTERN.fullmatch(" ".join(text.lower().split()).rstrip("."))
    if match is None:
        example = "a red circle moving left on a black background"
        raise ValueError(f"not a prompt of the shapes world: {text!r}; expected the form {example!r}")
    try:
        return Attributes(**match.groupdict())
    except ValueError as error:
        raise ValueError(f"in prompt {text!r}: {error}") from None


def all_combinations() -> list[Attributes]:
    """All 180 attribute combinations, in a fixed order."""
    return [Attributes(*values) for values in itertools.product(*VALUES.values())]


def _is_held_out(a: Attributes) -> bool:
    """One colour out of five for each (shape, motion, background): 36 of 180, and no pair of values vanishes."""
    s, c, m, b = (VALUES[name].index(getattr(a, name)) for name in VALUES)
    return (c + s + 2 * m + 3 * b) % len(COLOURS) == 0


def held_out_combinations() -> list[Attributes]:
    """The 36 combinations that never occur in training."""
    return [a for a in all_combinations() if _is_held_out(a)]


def train_combinations() -> list[Attributes]:
    """The 144 training combinations; every single value and every pair of values occurs among them."""
    return [a for a in all_combinations() if not _is_held_out(a)]


def signed_distance(shape: str, dx: Tensor, dy: Tensor, extent: Tensor) -> Tensor:
    """Signed distance in pixels to the edge of a centred shape, negative inside.

    Args:
        shape: one of `EXTENT_PER_RADIUS`.
        dx, dy: offsets from the shape's centroid in pixels, y pointing down; any broadcastable shape.
        extent: radius (circle), half side (square, diamond), inradius (triangle, tip up), in pixels.
    """
    if shape == "circle":
        return torch.sqrt(dx**2 + dy**2 + 1e-12) - extent
    if shape == "square":
        return torch.maximum(dx.abs(), dy.abs()) - extent
    if shape == "triangle":
        return torch.maximum(dy, dx.abs() * (math.sqrt(3) / 2) - dy / 2) - extent
    if shape == "diamond":
        return (dx.abs() + dy.abs()) / math.sqrt(2) - extent
    raise ValueError(f"unknown shape {shape!r}: expected one of {', '.join(EXTENT_PER_RADIUS)}")


def coverage(shape: str, centre_x: Tensor, centre_y: Tensor, extent: Tensor, size: int = SIZE) -> Tensor:
    """Anti-aliased masks of one shape.

    Args:
        shape: one of `EXTENT_PER_RADIUS`.
        centre_x, centre_y, extent: `(n,)`, in pixels.
        size: height and width of the masks.

    Returns:
        `(n, size, size)` in [0, 1]: the fraction of each pixel that the shape covers.
    """
    grid = torch.arange(size, dtype=torch.float32) + 0.5
    dx = grid.view(1, 1, -1) - centre_x.view(-1, 1, 1)
    dy = grid.view(1, -1, 1) - centre_y.view(-1, 1, 1)
    return (0.5 - signed_distance(shape, dx, dy, extent.view(-1, 1, 1))).clamp(0, 1)


def render(attributes: Attributes, generator: torch.Generator) -> Tensor:
    """Renders one clip.

    Args:
        attributes: what to show.
        generator: the only source of randomness (size and place jitter).

    Returns:
        `(f c h w)` = `(9, 3, 32, 32)` float32 in [0, 1].
    """
    draw = torch.rand(3, generator=generator)
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[0]
    centre = SIZE / 2 + (2 * draw[1:] - 1) * CENTRE_JITTER
    along = torch.linspace(-TRAVEL / 2, TRAVEL / 2, FRAMES)
    step_x, step_y = MOTIONS[attributes.motion]
    extent = (radius * EXTENT_PER_RADIUS[attributes.shape]).expand(FRAMES)
    mask = coverage(attributes.shape, centre[0] + along * step_x, centre[1] + along * step_y, extent)
    colour = torch.tensor(COLOURS[attributes.colour]).view(1, 3, 1, 1)
    background = torch.tensor(BACKGROUNDS[attributes.background]).view(1, 3, 1, 1)
    return background + mask.unsqueeze(1) * (colour - background)


def render_batch(batch: Sequence[Attributes], generator: torch.Generator) -> Tensor:
    """`render` for several attributes: `(b f c h w)` float32 in [0, 1]."""
    return torch.stack([render(attributes, generator) for attributes in batch])
