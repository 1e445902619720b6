"""What a report is made from: a run folder, read forgivingly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vader.errors import RunFolderError
from vader.runs.events import Validation
from vader.runs.folder import ENVIRONMENT, METRICS, SAMPLES, SPEC, Record, RunFolder, finite, own_file, step_folders
from vader.runs.validation_file import FILE as VALIDATION
from vader.runs.validation_file import SavedValidation
from vader.spec import RunSpec
from vader.spec.yaml_text import NotYamlError, load


@dataclass(frozen=True)
class RunData:
    """What a run folder says."""

    folder: Path
    spec: RunSpec | None
    """None when there is no spec.yaml that this version understands."""
    spec_text: str
    environment: Mapping[str, Any]
    records: tuple[Record, ...]
    """Of the optimizer steps, ascending, each step once."""
    validations: tuple[Validation, ...]
    """Ascending by step; clips whose scores are missing or not finite keep the scores that are."""
    checkpoints: tuple[str, ...]
    every_validation: tuple[Validation, ...]
    """Those made with other settings too."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.records[-1]["step"]) if self.records else 0

    @property
    def planned(self) -> int | None:
        """Optimizer steps asked for."""
        return self.spec.train.steps if self.spec else None

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of a metric wherever it is a finite number."""
        values = ((record["step"], sensible(record.get(key))) for record in self.records)
        return [(float(step), value) for step, value in values if value is not None]

    def clip_path(self, step: int, file: str) -> Path | None:
        """A clip of a validation; None where it is not, or a link is in its place."""
        path = RunFolder(self.folder).validation(step) / file
        return path if own_file(self.folder, path) else None


def read_run(path: Path) -> RunData:
    """Read the files of a run folder.

    Raises:
        RunFolderError: when the folder holds neither a spec, nor metrics, nor samples.
    """
    folder = RunFolder(path)
    parts = (folder.spec, folder.metrics, folder.samples)
    if not any(_read(part.exists, False) for part in parts):
        raise RunFolderError(
            f"{path} is not a run folder: it holds no {SPEC}, {METRICS} or {SAMPLES}. "
            "Give the folder that `vader train` wrote (the spec's `output`)."
        )
    text = _read(folder.read_spec, "") if own_file(path, folder.spec) else ""
    records = _read(folder.read_metrics, ()) if own_file(path, folder.metrics) else ()
    environment, saved = path / ENVIRONMENT, _saved(folder)
    return RunData(
        folder=path,
        spec=_spec(text),
        spec_text=text,
        environment=_read(folder.read_environment, {}) if own_file(path, environment) else {},
        records=tuple(record for record in records if record["step"] <= _STEPS),
        validations=tuple(_validations(saved)),
        checkpoints=tuple(one.name for one in _read(lambda: step_folders(folder.checkpoints), ())),
        every_validation=tuple(one.validation for one in saved),
    )


T = TypeVar("T")
D = TypeVar("D")
_STEPS = 10**12


def _read(read: Callable[[], T], instead: D) -> T | D:
    """What a file holds; something else for one that cannot be read."""
    try:
        return read()
    except OSError:
        return instead


def _saved(folder: RunFolder) -> list[SavedValidation]:
    """The validations that lie in the folder itself."""
    return [
        one
        for one in _read(folder.read_validations, ())
        if own_file(folder.path, folder.validation(one.validation.step) / VALIDATION)
    ]


def sensible(value: object) -> float | None:
    """A finite number with which one can still reckon, or None."""
    number = finite(value)
    return number if number is not None and abs(number) < 1e100 else None


def _spec(text: str) -> RunSpec | None:
    try:
        return RunSpec.model_validate(load(text))
    except (ValidationError, NotYamlError):
        return None


def _validations(saved: Sequence[SavedValidation]) -> Iterator[Validation]:
    """Those made with the settings of the last one; a resumed run may have changed how it validates."""
    for one in saved:
        if one.settings != saved[-1].settings or not one.validation.clips:
            continue
        clips = [
            replace(clip, scores={key: value for key, value in clip.scores.items() if sensible(value) is not None})
            for clip in one.validation.clips
        ]
        yield replace(one.validation, clips=tuple(clips))
