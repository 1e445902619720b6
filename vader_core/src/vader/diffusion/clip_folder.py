"""A folder of clips: video files, and ``clips.jsonl``, which says the prompt of each, and what people think of it.

A line is one clip or one pair::

    {"file": "0001.mp4", "prompt": "a fox in the snow", "label": 0.8}
    {"better": "0002.mp4", "worse": "0003.mp4", "prompt": "rain on a window"}

``label`` is a number, 0 or 1 for a dislike or a like; it may be left out where it is not needed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader.paths import user_path
from vader.protocols import Prompt, Video

if TYPE_CHECKING:
    from vader.shapes import Frames

INDEX = "clips.jsonl"
_SHOWN = 3


@dataclass(frozen=True)
class ClipRow:
    """A clip on disk, its prompt, and its label if it has one."""

    file: Path
    prompt: Prompt
    label: float | None = None


@dataclass
class ClipFolder:
    """What a folder holds: clips, and pairs of their places, the better one first."""

    rows: list[ClipRow] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)

    def add(self, row: ClipRow) -> int:
        """Its place."""
        self.rows.append(row)
        return len(self.rows) - 1


def read_clip_folder(folder: Path) -> ClipFolder:
    """Read ``clips.jsonl``. Video files are looked for, not opened.

    Raises:
        ValueError: there is none, or lines of it are wrong; names the first of them.
    """
    index = user_path(folder) / INDEX
    try:
        lines = index.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot read {str(index)!r}: {reason}. Expected a line of JSON for each clip.") from error
    found, wrong = ClipFolder(), list[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(found, index.parent, json.loads(line))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if not wrong and not found.rows:
        wrong = ["it holds no clip"]
    if wrong:
        more = f" (and {len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{str(index)!r}: {'; '.join(wrong[:_SHOWN])}{more}.")
    return found


def _take(found: ClipFolder, folder: Path, data: Any) -> None:
    """Take up what a line says."""
    if not isinstance(data, dict):
        raise ValueError(f"expected an object with file and prompt, found {data!r}")
    one, pair = {"file", "prompt", "label"}, {"better", "worse", "prompt"}
    known = pair if "better" in data or "worse" in data else one
    odd, missing = sorted(data.keys() - known), sorted(known - {"label"} - data.keys())
    if odd or missing:
        said = [f"unknown {', '.join(odd)}"] * bool(odd) + [f"no {', '.join(missing)}"] * bool(missing)
        raise ValueError(f"{' and '.join(said)}; expected {', '.join(sorted(known))}")
    if known is one:
        label = data.get("label")
        if label is not None and (isinstance(label, bool) or not isinstance(label, int | float)):
            raise ValueError(f"the label {label!r} is no number")
        found.add(_row(folder, data, "file", label))
        return
    better, worse = (_row(folder, data, name) for name in ("better", "worse"))
    found.pairs.append((found.add(better), found.add(worse)))


def _row(folder: Path, data: Mapping[str, Any], name: str, label: float | None = None) -> ClipRow:
    if not isinstance(data["prompt"], str) or not isinstance(data[name], str):
        raise ValueError(f"{name} and prompt must be texts")
    file = folder / data[name]
    if not file.is_file():
        raise ValueError(f"there is no file {data[name]!r}")
    return ClipRow(file, Prompt(data["prompt"]), None if label is None else float(label))


def read_frames(file: Path, video: Video) -> Frames:
    """The first frames of a video file, cut at the centre to the wanted shape and resized.

    Args:
        file: what imageio reads.
        video: frames, height and width wanted; the file's own frames per second are not looked at.

    Returns:
        ``(f 3 h w)`` float32 in [0, 1].

    Raises:
        ValueError: it cannot be read, or has too few frames.
    """
    import imageio.v3 as iio
    import torch
    from torch.nn import functional

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # imageio leaves the pipes of an ffmpeg that has ended
            with iio.imopen(file, "r") as opened:
                images = [image[..., :3] for _, image in zip(range(video.frames), opened.iter(), strict=False)]
            del opened
    except Exception as error:  # readers raise whatever their library does
        raise ValueError(f"{file.name} cannot be read as a video: {str(error).splitlines()[0]}") from error
    if len(images) < video.frames:
        raise ValueError(f"{file.name} has {len(images)} frames; expected {video.frames} or more")
    pixels = torch.stack([torch.from_numpy(image.copy()) for image in images]).movedim(-1, 1).float() / 255
    height, width = pixels.shape[-2:]
    high = min(height, round(width * video.height / video.width))
    wide = min(width, round(height * video.width / video.height))
    top, left = (height - high) // 2, (width - wide) // 2
    cut = pixels[:, :, top : top + high, left : left + wide]
    size = (video.height, video.width)
    return cut if cut.shape[-2:] == size else functional.interpolate(cut, size, mode="bilinear", antialias=True)
