"""What a tracker is given besides figures: clips and texts, in the words of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vader.runs.joining import grid
from vader.spec import RunSpec


@dataclass(frozen=True)
class ClipFile:
    """A clip that a validation wrote."""

    name: str
    """``validation/clip-000``."""
    path: Path
    caption: str


def configuration(spec: RunSpec) -> dict[str, Any]:
    """A spec as the values that trackers compare runs by, and as the YAML that repeats it."""
    plain = {
        path: value if isinstance(value, bool | int | float | str) else str(value)
        for path, value in spec.flat().items()
    }
    return {**plain, "spec": spec.to_yaml()}


def log_clips(tracker: str, run: Any, clips: Sequence[ClipFile], step: int) -> None:
    """Give clips to a tracker.

    Args:
        tracker: its name.
        run: its own object: of tensorboard the writer, else the run.
        clips: that were written.
        step: optimizer steps done.
    """
    if clips:
        _CLIPS[tracker](run, clips, step)


def log_text(tracker: str, run: Any, name: str, text: str, step: int) -> None:
    """Give a text to a tracker; see :func:`log_clips`."""
    if tracker == "tensorboard":
        run.add_text(name, text, global_step=step)
        run.flush()
    else:
        run.log({name: text}, step=step)


def _tensorboard(writer: Any, clips: Sequence[ClipFile], step: int) -> None:
    """As pictures that move; its own ``add_video`` would need moviepy for that."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for clip in clips:
        data = grid([[clip.path]], ".gif")
        width, height = (int.from_bytes(data[start : start + 2], "little") for start in (6, 8))
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=clip.name, image=image)]), step)
        writer.add_text(f"{clip.name}/caption", clip.caption, global_step=step)
    writer.flush()


def _wandb(run: Any, clips: Sequence[ClipFile], step: int) -> None:
    import wandb

    run.log({clip.name: wandb.Video(str(clip.path), caption=clip.caption, format="mp4") for clip in clips}, step=step)


def _trackio(run: Any, clips: Sequence[ClipFile], step: int) -> None:
    import trackio

    run.log({clip.name: trackio.Video(clip.path, caption=clip.caption) for clip in clips}, step=step)


_CLIPS: Mapping[str, Callable[[Any, Sequence[ClipFile], int], None]] = MappingProxyType(
    {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
)
