"""The exact evaluator of scenes: reads objects, motions and relations back from pixels. Nothing here is learned.

It does not know the prompt when it reads. It is strict: what cannot be read is `None`, and `None` is never right.
Objects are told apart by colour, objects of one colour by the gap between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vader_shapes import evaluator, world
from vader_shapes.scenes.grammar import parse, prompt
from vader_shapes.scenes.scene import BACKGROUNDS, COLOURS, DIRECTIONS, ORDERS, SHAPES, SIDES, STILL, Scene

PURE = 0.35  # farthest a pixel may be from a colour, in RGB, to count as wholly of that colour
FOUND = 8.0  # pixels of a pure colour in a mean frame that make it an object's
FOREIGN = 6.0  # pixels in a mean frame that are neither background nor an object nor between the two: no reading
AREA = (18.0, 180.0)  # pixels; rendered objects cover 40 to 140
MIN_WHOLE = 4  # frames in which an object is seen whole, although another passes; these say how large it is
SPECK = 4.0  # pixels of a piece at least
MIN_SHAPE_MATCH = 0.7  # soft intersection over union with the best template, mean over frames
SIZE_BORDER = 5.25  # radius in pixels
STILL_BELOW, SLOW_BELOW = 1.5, 6.0  # pixels of travel over the clip
MAX_DRIFT_RATIO = 0.5  # movement across the main axis relative to movement along it
MIN_FORWARD_STEPS = 0.75  # share of the frame-to-frame steps that go in the clip's direction
MIN_APART, MIN_SLANT = 4.0, 1.5  # of two objects beside each other: pixels, and the ratio of the two axes
WHOLE = 0.7  # share of its own area that an object shows where it is seen whole
IN_FRONT, MORE = 0.6, 0.25  # share that the object in front shows at least, and how much more than the one behind
ATTRIBUTES = ("count", "colour", "shape", "size", "motion", "speed", "relation", "background")
_AREA_PER_RADIUS = {"circle": math.pi, "square": 3.17, "triangle": 2.69, "diamond": 3.17}
_AREA_PER_EXTENT = {"circle": math.pi, "square": 4.0, "triangle": 3 * math.sqrt(3), "diamond": 4.0}


@dataclass(frozen=True)
class Seen:
    """One object: its looks and its way; `None` is what cannot be read. `places` `(f, 2)` are its centres, x and y."""

    colour: str | None
    shape: str | None
    size: str | None
    motion: str | None
    speed: str | None
    places: Tensor


@dataclass(frozen=True)
class SceneReading:
    """What one clip shows; `objects` is `None` where they cannot be told apart.

    `front` is the object that covers the other at some time, as a place in `objects`.
    """

    background: str | None
    objects: tuple[Seen, ...] | None
    front: int | None = None


@dataclass(frozen=True)
class _Piece:
    """A connected piece of one colour in one frame: soft mask `(h w)`, its area and centre."""

    alpha: Tensor
    area: float
    centre: tuple[float, float]


def read(clips: Tensor) -> list[SceneReading]:
    """Reads clips `(b f c h w)`, RGB in [0, 1], frames of 32x32, f >= 2.

    Raises:
        ValueError: if the tensor has another layout.
    """
    if clips.ndim != 5 or clips.shape[2:] != (3, world.SIZE, world.SIZE) or clips.shape[1] < 2:
        raise ValueError(f"clips must be (b, f >= 2, 3, {world.SIZE}, {world.SIZE}), got {tuple(clips.shape)}")
    clips = torch.nan_to_num(clips.detach().float().cpu(), nan=0.0).clamp(0, 1)
    grounds = evaluator.border_median(clips)
    names = evaluator.nearest(grounds, BACKGROUNDS, evaluator.MAX_BACKGROUND_DISTANCE)
    return [_read(*one) for one in zip(clips, grounds, names, strict=True)]


def accuracy(clips: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Compares clips with their prompts.

    Args:
        clips: `(b f c h w)` RGB in [0, 1], frames of 32x32.
        prompts: b prompts of the scenes.

    Returns:
        A bool tensor `(b,)` for each of `ATTRIBUTES` and for "all". What a prompt does not say is right; prompts of the
        kind "one" are read by `vader_shapes.evaluator`, on which they were defined.

    Raises:
        ValueError: if the counts differ or a prompt does not parse.
    """
    if len(prompts) != len(clips):
        raise ValueError(f"{len(clips)} clips but {len(prompts)} prompts")
    wanted, right = [parse(text) for text in prompts], [dict[str, bool]() for _ in prompts]
    plain = [i for i, scene in enumerate(wanted) if scene.kind == "one"]
    others = [i for i, scene in enumerate(wanted) if scene.kind != "one"]
    if others:
        for i, reading in zip(others, read(clips[others]), strict=True):
            right[i] = compare(wanted[i], reading)
    if plain:
        judged = evaluator.accuracy(clips[plain], [prompt(wanted[i]) for i in plain])
        for place, i in enumerate(plain):
            one = {name: bool(value[place]) for name, value in judged.items()}
            seen = one["shape"]  # only an object that is alone and whole has one
            right[i] = {name: one.get(name, seen or name != "count") for name in ATTRIBUTES}
    found = {name: torch.tensor([one[name] for one in right]) for name in ATTRIBUTES}
    return found | {"all": torch.stack(list(found.values())).all(dim=0)}


def said(scene: Scene) -> frozenset[str]:
    """Those of `ATTRIBUTES` that a scene's prompt says something about."""
    free = {"size": scene.things[0].size, "speed": scene.speed, "relation": scene.relation}
    return frozenset(ATTRIBUTES) - {name for name, value in free.items() if value is None}


def compare(scene: Scene, reading: SceneReading) -> dict[str, bool]:
    """Whether each of `ATTRIBUTES` is as the scene says it.

    Objects are matched by colour: `colour` asks for the wanted colours and no others, `shape` that each has its own.
    """
    right = dict.fromkeys(ATTRIBUTES, False)
    right["background"] = reading.background == scene.background
    if reading.objects is None:
        return right
    colours = [thing.colour for thing in scene.things]
    right["count"] = len(reading.objects) == scene.objects
    right["colour"] = {seen.colour for seen in reading.objects} == set(colours)
    pairs = [(thing, seen) for thing in scene.things for seen in reading.objects if seen.colour == thing.colour]
    if {thing.colour for thing, _ in pairs} != set(colours):
        return right
    first, last = (
        next(seen for thing, seen in pairs if thing is wanted) for wanted in (scene.things[0], scene.things[-1])
    )
    movers = [seen for _, seen in pairs] if scene.kind != "passing" else [first]
    right["shape"] = all(seen.shape == thing.shape for thing, seen in pairs)
    right["size"] = all(seen.size == thing.size or thing.size is None for thing, seen in pairs)
    right["motion"] = all(seen.motion == scene.motion for seen in movers)
    right["speed"] = scene.speed is None or all(seen.speed == scene.speed for seen in movers)
    if scene.kind == "passing":
        right["motion"] &= last.motion == STILL
        front = first if scene.relation == ORDERS[1] else last
        right["relation"] = reading.front is not None and reading.objects[reading.front] is front
    else:
        right["relation"] = scene.relation is None or (reading.front is None and side(first, last) == scene.relation)
    return right


def side(first: Seen, second: Seen) -> str | None:
    """Which of `SIDES` of the second the first is at, over the whole clip; `None` if that is not clear."""
    dx, dy = (first.places.mean(0) - second.places.mean(0)).tolist()
    axis = 0 if abs(dx) > abs(dy) else 1
    along, across = ((dx, dy), (dy, dx))[axis]
    if abs(along) < MIN_APART or abs(along) < MIN_SLANT * abs(across):
        return None
    wanted = [0.0, 0.0]
    wanted[axis] = math.copysign(1.0, along)
    return next(name for name, direction in SIDES.items() if list(direction) == wanted)


def _read(clip: Tensor, ground: Tensor, background: str | None) -> SceneReading:
    """Reads one clip `(f c h w)` over its background's colour `(3,)`."""
    nothing = SceneReading(background, None)
    pixels = clip.movedim(1, -1)  # f h w c
    table = torch.tensor([ground.tolist(), *COLOURS.values()])
    nearest = torch.cdist(pixels.reshape(-1, 3), table).min(dim=1)
    label = torch.where(nearest.values <= PURE, nearest.indices, -1).view(pixels.shape[:-1])
    names = [name for i, name in enumerate(COLOURS) if (label == i + 1).sum() >= FOUND * len(clip)]
    if not 1 <= len(names) <= 2:
        return nothing
    pure = [pixels[label == list(COLOURS).index(name) + 1].median(0).values for name in names]
    alphas, residual = _unmix(pixels, ground, torch.stack(pure))
    if len(names) == 2:  # the edge between two objects is a mixture of both
        between = _off_segment(pixels, pure[0], pure[1])[1]
        residual = torch.minimum(residual, between)
    if (residual > PURE).sum() > FOREIGN * len(clip):
        return nothing
    if len(names) == 1:
        tracks = _tracks(_pieces(alphas[0]))
        return nothing if tracks is None else SceneReading(background, tuple(_see(names[0], t) for t in tracks))
    return _read_two(background, names, alphas)


def _off_segment(pixels: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """How far along the segment of two colours each pixel is, in [0, 1], and how far off it."""
    way = end - start
    share = (((pixels - start) @ way) / way.pow(2).sum().clamp_min(1e-4)).clamp(0, 1)
    return share, (pixels - start - share.unsqueeze(-1) * way).norm(dim=-1)


def _unmix(pixels: Tensor, ground: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Soft masks `(k f h w)` of k colours over the background, and how far each pixel `(f h w)` is from all of them."""
    found = [_off_segment(pixels, ground, colour) for colour in colours]
    residual = torch.stack([off for _, off in found]).min(dim=0)
    owner = residual.indices
    alphas = torch.stack([(2 * share - 0.5).clamp(0, 1) * (owner == k) for k, (share, _) in enumerate(found)])
    return alphas, residual.values


def _pieces(alphas: Tensor) -> list[list[_Piece]]:
    """The connected pieces of soft masks `(n h w)`, neighbours by side, specks left out: a list for each mask."""
    mask = (alphas > 0.5).float()
    labels = torch.arange(1.0, alphas[0].numel() + 1).view(alphas.shape[1:]) * mask
    while True:
        across, along = F.max_pool2d(labels, (1, 3), 1, (0, 1)), F.max_pool2d(labels, (3, 1), 1, (1, 0))
        spread = torch.maximum(across, along) * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    owners = torch.where(labels > 0, labels, F.max_pool2d(labels, 3, 1, 1))  # soft edges belong to the piece beside
    found = []
    for alpha, label, owner in zip(alphas, labels, owners, strict=True):
        parts = [alpha * (owner == one) for one in label.unique().tolist() if one > 0]
        found.append([_piece(part) for part in parts if part.sum() >= SPECK])
    return found


def _piece(alpha: Tensor) -> _Piece:
    area = float(alpha.sum())
    grid = torch.arange(alpha.shape[-1]) + 0.5
    centre = (float((alpha.sum(0) * grid).sum()) / area, float((alpha.sum(1) * grid).sum()) / area)
    return _Piece(alpha, area, centre)


def _tracks(frames: list[list[_Piece]]) -> list[list[_Piece]] | None:
    """Objects of one colour through time: the same number, one to three, in every frame; else `None`."""
    count = len(frames[0])
    if not 1 <= count <= 3 or any(len(pieces) != count for pieces in frames):
        return None
    if any(not AREA[0] <= piece.area <= AREA[1] for pieces in frames for piece in pieces):
        return None
    tracks = [[piece] for piece in frames[0]]
    for pieces in frames[1:]:
        ends = [track[-1] for track in tracks]
        orders = itertools.permutations(pieces)
        best = min(
            orders, key=lambda order: sum(math.dist(a.centre, b.centre) for a, b in zip(ends, order, strict=True))
        )
        for track, piece in zip(tracks, best, strict=True):
            track.append(piece)
    return tracks


def _read_two(background: str | None, names: list[str], alphas: Tensor) -> SceneReading:
    """Two colours, one object each: looks and way are read where the other one does not cover it."""
    nothing = SceneReading(background, None)
    area = alphas.sum(dim=(2, 3))  # 2 f
    share = area / area.topk(MIN_WHOLE, dim=1).values.mean(dim=1, keepdim=True).clamp_min(1e-4)
    if bool((share.amax(0) < IN_FRONT).any()):  # one object may cover the other, and then is seen itself
        return nothing
    near = F.max_pool2d((alphas > 0.5).float(), 3, 1, 1)
    touching = (near[0] * near[1]).flatten(1).any(dim=1).nonzero().flatten().tolist()
    overlap = range(touching[0], touching[-1] + 1) if touching else range(0)
    seen = []
    for name, alpha, shown in zip(names, alphas, share.tolist(), strict=True):
        whole = [t for t, part in enumerate(shown) if part >= WHOLE]
        if len(whole) < MIN_WHOLE or any(t not in overlap and t not in whole for t in range(len(shown))):
            return nothing
        tracks = _tracks(_pieces(alpha[whole]))
        if tracks is None or len(tracks) > 1:
            return nothing
        seen.append(_see(name, tracks[0], whole))
    front = None
    if len(overlap) > 0:
        least = share[:, overlap[0] : overlap[-1] + 1].amin(1).tolist()
        front = next((i for i in (0, 1) if least[i] >= IN_FRONT and least[i] - least[1 - i] >= MORE), None)
    return SceneReading(background, tuple(seen), front)


def _see(colour: str, track: list[_Piece], times: list[int] | None = None) -> Seen:
    """Reads one object in the frames `times`, all by default."""
    shape = _shape(track)
    radius = math.sqrt(sum(piece.area for piece in track) / len(track) / _AREA_PER_RADIUS[shape or "circle"])
    places = torch.tensor([piece.centre for piece in track])
    motion, speed = _motion(places, times or list(range(len(track))))
    return Seen(colour, shape, "small" if radius < SIZE_BORDER else "large", motion, speed, places)


def _shape(track: list[_Piece]) -> str | None:
    """Matches each frame's mask with templates of equal area at the measured centre."""
    alpha, area = torch.stack([piece.alpha for piece in track]), torch.tensor([piece.area for piece in track])
    x, y = torch.tensor([piece.centre for piece in track]).T
    matches = {}
    for shape in SHAPES:
        template = world.coverage(shape, x, y, (area / _AREA_PER_EXTENT[shape]).sqrt(), alpha.shape[-1])
        template = (2 * template - 0.5).clamp(0, 1)
        union = torch.maximum(alpha, template).sum(dim=(1, 2))
        matches[shape] = float((torch.minimum(alpha, template).sum(dim=(1, 2)) / union).mean())
    best = max(matches, key=lambda shape: matches[shape])
    return best if matches[best] >= MIN_SHAPE_MATCH else None


def _motion(places: Tensor, times: list[int]) -> tuple[str | None, str | None]:
    """Direction or "still", and speed; `None` where an object turns back, goes diagonally or between two speeds."""
    dx, dy = (places[-1] - places[0]).tolist()
    if float((places - places.mean(0)).norm(dim=1).max()) < STILL_BELOW:
        return STILL, None
    axis = 0 if abs(dx) > abs(dy) else 1
    along, across = ((dx, dy), (dy, dx))[axis]
    sign = math.copysign(1.0, along)
    forward = (places.diff(dim=0)[:, axis] * sign > 0).float().mean().item()
    if abs(along) < STILL_BELOW or abs(across) > MAX_DRIFT_RATIO * abs(along) or forward < MIN_FORWARD_STEPS:
        return None, None
    wanted = (sign, 0.0) if axis == 0 else (0.0, sign)
    motion = next(name for name, direction in DIRECTIONS.items() if direction == wanted)
    travel = abs(along) * 8 / (times[-1] - times[0])
    return motion, "slowly" if travel < SLOW_BELOW else "quickly"
