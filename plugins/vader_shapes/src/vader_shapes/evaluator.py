"""The exact evaluator: reads shape, colour, motion and background back from pixels. Nothing here is learned.

It is strict: a clip with no object, several objects, an object that stands still or one that matches no template
gets `None` for what cannot be read, and `None` is never counted as right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vader_shapes.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, VALUES, coverage, parse

MAX_COLOUR_DISTANCE = 0.35  # Euclidean, in RGB
MAX_BACKGROUND_DISTANCE = 0.25
MASK_DISTANCE = 0.25  # a pixel farther than this from the background belongs to the object
AREA = (40.0, 260.0)  # pixels; rendered objects cover 80 to 130
MIN_SHAPE_MATCH = 0.75  # soft intersection over union with the best template, mean over frames
MIN_TRAVEL = 4.0  # pixels between first and last frame; rendered objects travel 10
MAX_DRIFT_RATIO = 0.5  # movement across the main axis relative to movement along it
MIN_FORWARD_STEPS = 0.75  # share of the 8 frame-to-frame steps that go in the clip's direction


@dataclass(frozen=True)
class Reading:
    """What the evaluator saw in one clip; `None` where nothing valid can be read."""

    shape: str | None
    colour: str | None
    motion: str | None
    background: str | None


@dataclass(frozen=True)
class _Objects:
    """Measurements per clip and frame: alpha `(b f h w)`, area, x, y `(b f)`, colour `(b 3)`, valid `(b,)`."""

    alpha: Tensor
    area: Tensor
    x: Tensor
    y: Tensor
    colour: Tensor
    valid: Tensor


def read(clips: Tensor) -> list[Reading]:
    """Reads the attributes of clips.

    Args:
        clips: `(b f c h w)` RGB in [0, 1], square frames, f >= 2.

    Returns:
        One `Reading` per clip.

    Raises:
        ValueError: if the tensor has another layout.
    """
    if clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[3] != clips.shape[4] or clips.shape[1] < 2:
        raise ValueError(f"clips must be (b, f >= 2, 3, s, s), got {tuple(clips.shape)}")
    clips = torch.nan_to_num(clips.detach().float().cpu(), nan=0.0).clamp(0, 1)
    background = border_median(clips)
    objects = _find_objects(clips, background)
    backgrounds = nearest(background, BACKGROUNDS, MAX_BACKGROUND_DISTANCE)
    colours = nearest(objects.colour, COLOURS, MAX_COLOUR_DISTANCE)
    shapes = _read_shapes(objects)
    motions = _read_motions(objects)
    readings = []
    for i, valid in enumerate(objects.valid.tolist()):
        seen = (shapes[i], colours[i], motions[i]) if valid else (None, None, None)
        readings.append(Reading(*seen, background=backgrounds[i]))
    return readings


def accuracy(clips: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Compares clips with their prompts.

    Args:
        clips: `(b f c h w)` RGB in [0, 1].
        prompts: b prompts of the shapes world.

    Returns:
        A bool tensor `(b,)` for each of "shape", "colour", "motion", "background", and "all" (all four right).

    Raises:
        ValueError: if the counts differ or a prompt does not parse.
    """
    if len(prompts) != len(clips):
        raise ValueError(f"{len(clips)} clips but {len(prompts)} prompts")
    wanted = [parse(text) for text in prompts]
    readings = read(clips)
    right = {
        name: torch.tensor([getattr(r, name) == getattr(w, name) for r, w in zip(readings, wanted, strict=True)])
        for name in VALUES
    }
    right["all"] = torch.stack(list(right.values())).all(dim=0)
    return right


def border_median(clips: Tensor) -> Tensor:
    """`(b 3)`: median colour of the one-pixel border over all frames."""
    rows = torch.cat([clips[..., 0, :], clips[..., -1, :], clips[..., :, 0], clips[..., :, -1]], dim=-1)
    return rows.transpose(1, 2).flatten(2).median(dim=-1).values


def _find_objects(clips: Tensor, background: Tensor) -> _Objects:
    offset = clips - background.view(-1, 1, 3, 1, 1)
    mask = (offset.norm(dim=2) > MASK_DISTANCE).float()  # b f h w
    count = mask.sum(dim=(1, 2, 3)).clamp_min(1)
    # The object's colour is the median over its pixels: edge pixels are mixed with the background.
    colour = torch.stack([masked_median(clip, m) for clip, m in zip(clips, mask, strict=True)])
    direction = colour - background
    length = direction.pow(2).sum(-1).clamp_min(1e-4)
    alpha = (offset * direction.view(-1, 1, 3, 1, 1)).sum(2) / length.view(-1, 1, 1, 1)
    alpha = (2 * alpha - 0.5).clamp(0, 1)  # steeper edges: pixel noise neither adds to nor takes from the mask
    area = alpha.sum(dim=(2, 3))
    grid = torch.arange(clips.shape[-1], dtype=torch.float32) + 0.5
    x = (alpha.sum(2) * grid).sum(-1) / area.clamp_min(1e-4)
    y = (alpha.sum(3) * grid).sum(-1) / area.clamp_min(1e-4)
    scale = (clips.shape[-1] / 32) ** 2
    in_range = ((area >= AREA[0] * scale) & (area <= AREA[1] * scale)).all(dim=1)
    return _Objects(alpha, area, x, y, colour, in_range & (count > 1))


def masked_median(clip: Tensor, mask: Tensor) -> Tensor:
    """`(3,)`: median colour of the pixels in the mask; zeros if it is empty."""
    pixels = clip.transpose(0, 1)[:, mask.bool()]
    return pixels.median(dim=1).values if pixels.shape[1] else torch.zeros(3)


def nearest(colours: Tensor, table: dict[str, tuple[float, float, float]], limit: float) -> list[str | None]:
    distance = torch.cdist(colours, torch.tensor(list(table.values())))
    best = distance.min(dim=1)
    names = list(table)
    return [names[i] if d <= limit else None for d, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def _read_shapes(objects: _Objects) -> list[str | None]:
    """Matches each frame's mask with templates of equal area at the measured centroid."""
    size = objects.alpha.shape[-1]
    alpha, area = objects.alpha.flatten(0, 1), objects.area.flatten()
    per_area = {"circle": 1 / math.pi, "square": 1 / 4, "triangle": 1 / (3 * math.sqrt(3))}
    matches = []
    for shape in SHAPES:
        template = coverage(shape, objects.x.flatten(), objects.y.flatten(), (area * per_area[shape]).sqrt(), size)
        union = torch.maximum(alpha, template).sum(dim=(1, 2)).clamp_min(1e-4)
        overlap = torch.minimum(alpha, template).sum(dim=(1, 2)) / union
        matches.append(overlap.view(objects.area.shape).mean(dim=1))
    best = torch.stack(matches, dim=1).max(dim=1)
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [SHAPES[i] if match >= MIN_SHAPE_MATCH else None for match, i in pairs]


def _read_motions(objects: _Objects) -> list[str | None]:
    """Direction of the centroid's path, or `None` if it stands still, turns back or goes diagonally."""
    path = torch.stack([objects.x, objects.y], dim=-1) * (32 / objects.alpha.shape[-1])  # b f 2
    travel = path[:, -1] - path[:, 0]
    steps = path.diff(dim=1)
    motions: list[str | None] = []
    for (dx, dy), step in zip(travel.tolist(), steps, strict=True):
        axis = 0 if abs(dx) > abs(dy) else 1
        along, across = ((dx, dy), (dy, dx))[axis]
        sign = math.copysign(1.0, along)
        forward = (step[:, axis] * sign > 0).float().mean().item()
        if abs(along) < MIN_TRAVEL or abs(across) > MAX_DRIFT_RATIO * abs(along) or forward < MIN_FORWARD_STEPS:
            motions.append(None)
            continue
        wanted = (sign, 0.0) if axis == 0 else (0.0, sign)
        motions.append(next(name for name, direction in MOTIONS.items() if direction == wanted))
    return motions
