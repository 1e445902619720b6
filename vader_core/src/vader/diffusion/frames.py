"""Frames: which ones to decode, their range, and writing them as video."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vader.shapes import Frames

FrameMode = Literal["random", "index", "fml", "all", "alt"]


def choose(mode: FrameMode, count: int, rng: random.Random, index: int | None = None) -> list[int]:
    """Indices of the frames to decode, ascending.

    Args:
        mode: ``random`` one uniform frame; ``index`` the given one; ``fml`` first, middle and last; ``all``; ``alt``
            every second one from 0.
        count: frames of the clip.
        rng: used by ``random`` only.
        index: for ``index``, 0..count - 1.
    """
    if mode == "random":
        return [rng.randrange(count)]
    if mode == "index":
        assert index is not None
        assert 0 <= index < count
        return [index]
    if mode == "fml":
        return sorted({0, count // 2, count - 1})
    return list(range(0, count, 2 if mode == "alt" else 1))


def fewest(mode: FrameMode, count: int) -> int:
    """How many frames a mode gives for a clip of ``count`` frames."""
    return len(choose(mode, count, random.Random(0), 0))


def from_signed(pixels: Tensor) -> Frames:
    """[-1, 1] as a VAE gives it to [0, 1], clamped; the gradient of a clamped pixel is zero."""
    return (pixels / 2 + 0.5).clamp(0, 1)


def to_uint8(frames: Frames) -> np.ndarray:
    """``(... c h w)`` in [0, 1] to ``(... h w c)`` bytes, rounded."""
    scaled = frames.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(-3, -1).cpu().numpy()


_SKETCHED, _SIDE = 4, 8


def sketch(frames: Frames) -> bytes:
    """A clip in few bytes, for distances between clips: up to 4 frames, evenly apart, of 8 x 8 mean colours.

    Args:
        frames: ``(f c h w)`` in [0, 1].
    """
    count = frames.shape[0]
    chosen = [round(i * (count - 1) / (_SKETCHED - 1)) for i in range(_SKETCHED)] if count > _SKETCHED else range(count)
    small = torch.nn.functional.adaptive_avg_pool2d(frames[list(chosen)].detach().float(), _SIDE)
    return to_uint8(small).tobytes()


def tile(clips: Sequence[Frames], columns: int) -> Frames:
    """Clips ``(f c h w)`` of one size as one clip ``(f c rows*h columns*w)``, row by row; empty places are black."""
    rows = -(-len(clips) // columns)
    blank = torch.zeros_like(clips[0])
    cells = [*clips, *[blank] * (rows * columns - len(clips))]
    return torch.cat([torch.cat(cells[row * columns : (row + 1) * columns], dim=-1) for row in range(rows)], dim=-2)


def write_clip(path: Path, frames: Frames, fps: float, *, scale: int = 1) -> None:
    """Write one clip as .mp4 (H.264, yuv420p), .gif or .png (a strip of frames), by the path's ending.

    Args:
        path: its folder must exist; the file is written under a temporary name and renamed.
        frames: ``(f c h w)`` in [0, 1].
        fps: frames per second.
        scale: whole-number enlargement by repeating pixels, for tiny clips.

    Raises:
        ValueError: for another ending.
    """
    images = to_uint8(frames).repeat(scale, axis=1).repeat(scale, axis=2)
    suffix = path.suffix.lower()
    temporary = path.with_name(f".{path.stem}.partial{suffix}")
    if suffix not in (".mp4", ".gif", ".png"):
        raise ValueError(f"cannot write a clip as {path.name!r}; expected a name ending in .mp4, .gif or .png.")
    try:
        _write(temporary, suffix, images, fps)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, suffix: str, images: np.ndarray, fps: float) -> None:
    import imageio.v3 as iio

    if suffix == ".mp4":
        odd = (images.shape[1] % 2, images.shape[2] % 2)
        images = np.pad(images, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        options: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 1}
        options["output_params"] = ["-crf", "12"]
        iio.imwrite(path, images, fps=fps, plugin="FFMPEG", **options)
    elif suffix == ".gif":
        iio.imwrite(path, images, duration=1000 / fps, loop=0)
    else:
        iio.imwrite(path, np.concatenate(list(images), axis=1))
