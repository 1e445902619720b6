"""``validation.json``: prompts, seeds, scores, sketches and files of a validation's clips, their size, and alarms."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vader.runs.events import Alarm, ClipSize, Validation, ValidationClip
from vader.storage import read_plain, write_json

FILE = "validation.json"


@dataclass(frozen=True)
class SavedValidation:
    """A validation on disk.

    Args:
        validation: a score that was not finite is NaN.
        settings: names what it was made with, so that another is not taken for it.
        sound: whether it is what was written; versions that wrote no digest are believed.
    """

    validation: Validation
    settings: Any
    sound: bool = True


def write_validation(folder: Path, validation: Validation, settings: str) -> None:
    """Write ``validation.json`` into the folder of a validation's clips."""
    clips = [
        {
            "index": clip.index,
            "prompt": clip.prompt,
            "seed": clip.seed,
            "scores": {key: value if math.isfinite(value) else None for key, value in clip.scores.items()},
            "file": clip.file,
            "image": clip.image,
            "sketch": base64.b64encode(clip.sketch).decode("ascii") if clip.sketch is not None else None,
            "statistics": {key: value for key, value in clip.statistics.items() if math.isfinite(value)},
            "kind": clip.kind,
        }
        for clip in validation.clips
    ]
    size = asdict(validation.size) if validation.size is not None else None
    alarms = [asdict(alarm) for alarm in validation.alarms]
    data = {"step": validation.step, "settings": settings, "size": size, "alarms": alarms, "clips": clips}
    spent = {"seconds": validation.seconds, "joules": validation.joules}
    write_json(folder / FILE, {**spent, **data, "sha256": _digest(data)})


def read_validation(folder: Path) -> SavedValidation | None:
    """What a validation's folder holds; None when there is nothing that can be read."""
    try:
        data = json.loads(read_plain(folder / FILE, errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("step"), int):
        return None
    expected = data.pop("sha256", None)
    spent = {key: _spent(data.pop(key, None)) for key in ("seconds", "joules")}  # no part of what was made: no digest
    given = data.get("clips")
    clips = tuple(_clip(item) for item in (given if isinstance(given, list) else ()) if isinstance(item, dict))
    sound = expected is None or expected == _digest(data)
    validation = Validation(data["step"], clips, _size(data.get("size")), _alarms(data.get("alarms")), **spent)
    return SavedValidation(validation, data.get("settings"), sound)


def _digest(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _clip(item: Mapping[str, Any]) -> ValidationClip:
    file, index, seed, image, kind = (item.get(key) for key in ("file", "index", "seed", "image", "kind"))
    statistics = _numbers(item.get("statistics"))
    return ValidationClip(
        index=index if isinstance(index, int) else 0,
        prompt=str(item.get("prompt", "")),
        seed=seed if isinstance(seed, int) else 0,
        scores=_numbers(item.get("scores")),
        file=Path(file).name if isinstance(file, str) and file else None,
        image=Path(image).name if isinstance(image, str) and image else None,
        sketch=_sketch(item.get("sketch")),
        statistics={key: value for key, value in statistics.items() if math.isfinite(value)},
        kind=kind if isinstance(kind, str) else None,
    )


def _numbers(given: object) -> dict[str, float]:
    """Numbers by name; NaN for what is none."""
    return {str(key): _score(value) for key, value in given.items()} if isinstance(given, dict) else {}


def _sketch(value: object) -> bytes | None:
    """Bytes that were written as base64; None in folders of versions that did not write them."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None


def _alarms(given: object) -> tuple[Alarm, ...]:
    """The alarms of a validation, as far as they can be read."""
    found = []
    for row in given if isinstance(given, list) else ():
        match row:
            case {"statistic": str(statistic), "step": int(step), "text": str(text)}:
                found.append(Alarm(statistic, step, text))
    return tuple(found)


def _score(value: object) -> float:
    """A number; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return math.nan


def _spent(given: object) -> float | None:
    """A number from 0; None in folders of versions that did not write it."""
    value = _score(given)
    return value if 0 <= value < _MOST_SPENT else None


def _size(given: object) -> ClipSize | None:
    """The clips' size; None in folders of versions that did not write it."""
    try:
        size = ClipSize(**given) if isinstance(given, dict) else None
    except TypeError:
        return None
    if size is None or not all(_counts(value) for value in (size.frames, size.height, size.width)):
        return None
    return size if isinstance(size.fps, int | float) and 0 < size.fps < _MOST else None


_MOST, _MOST_SPENT = 10**6, 1e15


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MOST
