"""Preprocessing of frames for frozen networks: pure torch, differentiable, on any device.

All functions take and give images ``(n 3 h w)``; values are in [0, 1] until :func:`normalise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Mode = Literal["bilinear", "bicubic"]


def wide(dtype: torch.dtype) -> torch.dtype:
    """Float32, or what is wider: pixels, features and scores are never rounded to the precision of frozen weights."""
    return torch.promote_types(dtype, torch.float32)


def images(frames: Tensor) -> Tensor:
    """The frames of all clips, one after another.

    Args:
        frames: ``(b f 3 h w)``.

    Returns:
        ``(b*f 3 h w)`` of float32 or wider.

    Raises:
        ValueError: for another shape, or for whole numbers.
    """
    if frames.ndim != 5 or frames.shape[2] != 3 or not frames.is_floating_point():
        raise ValueError(
            f"frames are {tuple(frames.shape)} of {frames.dtype}; expected (b, f, 3, h, w), floating point in [0, 1]."
        )
    return frames.flatten(0, 1).to(wide(frames.dtype))


def by_clip(x: Tensor, frames: Tensor) -> Tensor:
    """The opposite of :func:`images`: ``(b*f ...)`` -> ``(b f ...)``, b and f being those of the frames."""
    return x.reshape(*frames.shape[:2], *x.shape[1:])


def per_clip(scores: Tensor, frames: Tensor) -> Tensor:
    """Mean over each clip's frames: ``(b*f,)`` -> ``(b,)``."""
    return by_clip(scores, frames).mean(1)


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(x - mean) / std`` per channel."""
    middle, spread = (torch.tensor([*values], dtype=x.dtype).view(3, 1, 1) for values in (mean, std))
    return (x - middle.to(x.device, non_blocking=True)) / spread.to(x.device, non_blocking=True)


def resize(x: Tensor, size: tuple[int, int], mode: Mode, *, antialias: bool = True) -> Tensor:
    """To ``(height, width)``, as torchvision resizes float images; bicubic may overshoot [0, 1]."""
    if tuple(x.shape[-2:]) == size:
        return x
    return functional.interpolate(x, size, mode=mode, align_corners=False, antialias=antialias)


def resize_twice(x: Tensor, size: tuple[int, int]) -> Tensor:
    """To ``(height, width)``, bicubic, the width first, clamped to [0, 1] after each, as PIL does with 8 bits."""
    return resize(resize(x, (x.shape[-2], size[1]), "bicubic").clamp(0, 1), size, "bicubic").clamp(0, 1)


def short_side_size(x: Tensor, size: int) -> tuple[int, int]:
    """Height and width with a shorter side of ``size``, the aspect kept; the longer one is rounded down."""
    height, width = x.shape[-2:]
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def short_side(x: Tensor, size: int, mode: Mode) -> Tensor:
    """Resize the shorter side to ``size``, keeping the aspect; the longer one is rounded down."""
    return resize(x, short_side_size(x, size), mode)


def center_crop(x: Tensor, size: int, *, nearest: bool = False) -> Tensor:
    """The middle ``size`` x ``size``; an odd margin is rounded down, or with ``nearest`` as torchvision rounds it."""
    margins = [(side - size) / 2 for side in x.shape[-2:]]
    top, left = (round(margin) if nearest else int(margin) for margin in margins)
    return x[..., top : top + size, left : left + size]


def fit_inside(x: Tensor, size: int, mode: Mode) -> Tensor:
    """Resize the longer side to ``size`` and pad the shorter one with black to a square."""
    height, width = x.shape[-2:]
    scale = size / max(height, width)
    x = resize(x, (max(1, round(height * scale)), max(1, round(width * scale))), mode)
    down, across = size - x.shape[-2], size - x.shape[-1]
    return functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


def crop_of_short_side(x: Tensor, size: int, mode: Mode = "bicubic", *, nearest: bool = False) -> Tensor:
    """Shorter side to ``size``, clamped once (PIL clamps and rounds after each pass), then the middle square."""
    return center_crop(short_side(x, size, mode).clamp(0, 1), size, nearest=nearest)


def between(x: Tensor, shortest: int, longest: int, *, multiple: int = 1) -> Tensor:
    """The shorter side to ``shortest``, or less where the longer one would pass ``longest``; bilinear, as DETR does.

    Both sides are then rounded down to a multiple of ``multiple``.
    """
    low, high = sorted(x.shape[-2:])
    short = min(float(shortest), longest * low / high)
    sides = {low: round(short), high: int(short * high / low)}
    height, width = (sides[side] - sides[side] % multiple for side in x.shape[-2:])
    return resize(x, (height, width), "bilinear")


def evenly(frames: Tensor, count: int) -> Tensor:
    """``count`` frames of each clip, evenly spaced from first to last; repeated where the clip is shorter.

    Args:
        frames: ``(b f c h w)``.

    Returns:
        ``(b count c h w)``.
    """
    if frames.shape[1] == count:
        return frames
    index = torch.linspace(0, frames.shape[1] - 1, count, device=frames.device).round().long()
    return frames[:, index]
