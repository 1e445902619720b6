"""A clip's history: the same prompt and seed at one validation after the other, side by side in one video."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vader.errors import Problem, RunFolderError, SpecError
from vader.report.clips import BUDGET, TINY, size_asked_for
from vader.report.comparison import score_keys
from vader.report.numbers import plain
from vader.report.reading import RunData, read_run
from vader.runs.events import Validation, ValidationClip
from vader.runs.joining import ENDINGS, grid

MOST = 8
"""Validations in a row: the first, the last, and others evenly between."""
FEWEST = 3
"""Of fewer, the pairs of before and after show all."""
_SECONDS = 30.0
"""Time for making them."""


@dataclass(frozen=True)
class Moment:
    """A clip at a validation."""

    step: int
    clip: ValidationClip
    path: Path


@dataclass(frozen=True)
class History:
    """A clip's history, embedded."""

    prompt: str
    seed: int
    moments: tuple[Moment, ...]
    scores: tuple[str, ...]
    """Of the first score, at each moment."""
    uri: str
    name: str
    """For the downloaded file."""
    tiny: bool


@dataclass(frozen=True)
class Histories:
    """Those that are shown."""

    rows: tuple[History, ...]
    key: str
    """The score whose values stand below."""
    left_out: int


def histories(run: RunData) -> Histories:
    """The history of every clip that three validations or more have written, up to a budget of size and time."""
    keys = score_keys(run)
    key = keys[0] if keys else ""
    rows: list[History] = []
    begun, spent, left_out = time.monotonic(), 0, 0
    size = (run.validations[-1].size if run.validations else None) or size_asked_for(run)
    for moments in strips(run):
        if len(moments) < FEWEST:
            continue
        spent += sum(moment.path.stat().st_size for moment in moments)
        if spent > BUDGET or time.monotonic() - begun > _SECONDS:
            left_out += 1
            continue
        data = grid([[moment.path for moment in moments]], ".mp4")
        clip = moments[-1].clip
        values = tuple(plain(m.clip.scores[key]) if key in m.clip.scores else "" for m in moments)
        uri = f"data:video/mp4;base64,{base64.b64encode(data).decode('ascii')}"
        name = f"{run.folder.resolve().name}-clip-{clip.index:03d}.mp4"
        tiny = size is None or size.width < TINY
        rows.append(History(clip.prompt, clip.seed, tuple(moments), values, uri, name, tiny))
    return Histories(tuple(rows), key, left_out)


def strips(run: RunData) -> Iterator[list[Moment]]:
    """For each clip of the last validation, itself at the validations that wrote it."""
    if not run.validations:
        return
    chosen = _chosen(run.validations)
    for clip in run.validations[-1].clips:
        moments = []
        for validation in chosen:
            same = next((one for one in validation.clips if _identity(one) == _identity(clip)), None)
            path = run.clip_path(validation.step, same.file or "") if same is not None else None
            if same is not None and path is not None and path.suffix.lower() == ".mp4":
                moments.append(Moment(validation.step, same, path))
        if moments and moments[-1].step == run.validations[-1].step:
            yield moments


def _identity(clip: ValidationClip) -> tuple[int, str, int]:
    return clip.index, clip.prompt, clip.seed


def _chosen(validations: Sequence[Validation]) -> list[Validation]:
    if len(validations) <= MOST:
        return list(validations)
    places = {round(i * (len(validations) - 1) / (MOST - 1)) for i in range(MOST)}
    return [validations[place] for place in sorted(places)]


def write_history(folder: Path, path: Path) -> Path:
    """Write the histories of a run's clips as one file: a row a clip, a column a validation.

    Args:
        folder: of the run.
        path: a name that ends in .mp4 or .gif.

    Raises:
        SpecError: it ends in something else.
        RunFolderError: the folder is not one of a run, fewer than two validations wrote the same clips, or the file
            cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SpecError([Problem("--history", f"expected a name that ends in .mp4 or .gif; found {path.name!r}.")])
    found = list(strips(read_run(folder)))
    columns = max(map(len, found), default=0)
    whole = [moments for moments in found if len(moments) == columns]
    if columns < 2:
        raise RunFolderError(
            f"{str(folder)!r} has no clip that two validations wrote. Set validation.save_clips above 0."
        )
    data = grid([[moment.path for moment in moments] for moments in whole], ending)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise RunFolderError(f"cannot write {str(path)!r}: {error.strerror}.") from error
    return path
