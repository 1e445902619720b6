"""Clips as users of Open-Sora know them: resolution, aspect ratio, length. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from vader import Video

Resolution = Literal["144p", "240p", "360p", "480p", "720p"]
AspectRatio = Literal["9:16", "16:9", "1:1", "3:4", "4:3"]
Length = Literal["2s", "4s", "8s", "16s"]

SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "144p": {"9:16": (144, 256), "16:9": (256, 144), "1:1": (192, 192), "3:4": (166, 221), "4:3": (221, 165)},
    "240p": {"9:16": (240, 426), "16:9": (426, 240), "1:1": (320, 320), "3:4": (276, 368), "4:3": (370, 278)},
    "360p": {"9:16": (360, 640), "16:9": (640, 360), "1:1": (480, 480), "3:4": (416, 554), "4:3": (554, 416)},
    "480p": {"9:16": (480, 854), "16:9": (854, 480), "1:1": (640, 640), "3:4": (554, 738), "4:3": (740, 555)},
    "720p": {"9:16": (720, 1280), "16:9": (1280, 720), "1:1": (960, 960), "3:4": (832, 1110), "4:3": (1108, 832)},
}
"""Height and width in pixels, by resolution and aspect ratio (height : width, as Open-Sora writes it)."""
LENGTHS: Mapping[str, int] = {"2s": 51, "4s": 102, "8s": 204, "16s": 408}
"""Frames."""
FPS = 24.0
IMAGE_FPS = 120.0
"""What the network is told of a clip of one frame."""
CELL = 8
"""Pixels per latent cell."""


def resolve(
    resolution: Resolution, aspect_ratio: AspectRatio, length: Length | int, requested: Mapping[str, float]
) -> Video:
    """The clip that options and a spec's ``video`` section mean together; the latter wins.

    Args:
        resolution: with ``aspect_ratio`` the size.
        aspect_ratio: height : width.
        length: a name of :data:`LENGTHS`, or frames.
        requested: frames, height, width and fps, where set.

    Raises:
        ValueError: for a height without a width, and for a size that is neither in :data:`SIZES` nor made of whole
            latent cells; the message names possible ones.
    """
    frames = length if isinstance(length, int) else LENGTHS[length]
    size = SIZES[resolution][aspect_ratio]
    asked = [side for side in ("height", "width") if side in requested]
    if len(asked) == 1:
        raise ValueError(
            f"{asked[0]} {int(requested[asked[0]])} is set alone. Set height and width both, or neither, and choose "
            "backbone.options.resolution and aspect_ratio."
        )
    if asked:
        size = (int(requested["height"]), int(requested["width"]))
        _judge(*size)
    return Video(int(requested.get("frames", frames)), *size, float(requested.get("fps", FPS)))


def _judge(height: int, width: int) -> None:
    """Refuse a size that is neither one of Open-Sora's nor on the latent grid."""
    known = {size: f"{name} {ratio}" for name, row in SIZES.items() for ratio, size in row.items()}
    if (height, width) in known:
        return
    wrong = [
        f"{side} {value} is not a multiple of {CELL}; the nearest are {_nearest(value)}"
        for side, value in (("height", height), ("width", width))
        if value % CELL or value == 0
    ]
    if wrong:
        shape, name = min(known.items(), key=lambda item: abs(item[0][0] - height) + abs(item[0][1] - width))
        raise ValueError(
            f"{'; '.join(wrong)}. Open-Sora's own size that comes nearest is {shape[0]}x{shape[1]} ({name})."
        )


def _nearest(value: int) -> str:
    below = value // CELL * CELL
    return f"{below} and {below + CELL}" if below else str(CELL)
