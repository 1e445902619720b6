"""Which frames of a clip a video network sees, and how large, as the Qwen-VL family of rewards does."""

from __future__ import annotations

import math

import torch

FEWEST, MOST = 4, 768
"""Frames that are taken where the clip has them."""
_ASPECT = 200


def fps_of(frames: int, made: int | None, fps: float | None) -> float | None:
    """Frames per second of what is seen: fewer when only some of a clip's frames were decoded.

    Args:
        frames: that are seen.
        made: of the clip; None if it is not known.
        fps: of the clip; None if it is not known.
    """
    return fps * frames / made if fps is not None and made is not None else fps


def evenly_by_time(total: int, video_fps: float | None, fps: float | None, count: int | None) -> list[int]:
    """Indices of the frames that are looked at, an even number of them, from first to last.

    Args:
        total: frames of the clip, at least 2.
        video_fps: of the clip; None looks at every frame.
        fps: how many a second are looked at.
        count: how many altogether; None to go by ``fps``. An odd last one is taken twice.

    Source: ``smart_nframes`` of VideoAlign (float32 places, half to even).
    """
    if count is not None:
        number = min(2 * round(count / 2), total)
    else:
        most = min(MOST, total) // 2 * 2
        wanted = float(total) if video_fps is None or fps is None else total / video_fps * fps
        number = 2 * round(min(max(wanted, float(FEWEST)), float(most)) / 2)
    places = torch.linspace(0, total - 1, number, device="cpu").round().long().tolist()
    return [*places, *places[-1:]] if number % 2 else list(places)


def looked_at(reward: str, total: int, video_fps: float | None, fps: float | None, count: int | None) -> list[int]:
    """See :func:`evenly_by_time`.

    Raises:
        ValueError: a single frame.
    """
    if total < 2:
        raise ValueError(f"{reward} got 1 frame a clip; expected 2 or more. Set `frames: {{mode: all}}`.")
    return evenly_by_time(total, video_fps, fps, count)


def size_within(height: int, width: int, least: int, most: int, factor: int) -> tuple[int, int]:
    """Both sides as multiples of ``factor``, the aspect nearly kept, the area between ``least`` and ``most`` pixels.

    Raises:
        ValueError: one side is more than 200 times the other.

    Source: ``smart_resize`` of Qwen2-VL, in Python's floats, on whose last bit sizes depend.
    """
    if max(height, width) / min(height, width) > _ASPECT:
        raise ValueError(f"frames are {height}x{width}; expected an aspect of at most {_ASPECT}.")
    down, across = (max(factor, round(side / factor) * factor) for side in (height, width))
    if down * across > most:
        beta = math.sqrt(height * width / most)
        down, across = (max(factor, math.floor(side / beta / factor) * factor) for side in (height, width))
    elif down * across < least:
        beta = math.sqrt(least / (height * width))
        down, across = (math.ceil(side * beta / factor) * factor for side in (height, width))
    return down, across
