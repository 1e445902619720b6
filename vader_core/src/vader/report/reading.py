"""What a report is made from: a run folder, read forgivingly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vader.errors import RunFolderError
from vader.runs.events import Validation
from vader.runs.folder import METRICS, SAMPLES, SPEC, Record, RunFolder, finite, step_folders
from vader.runs.validation_file import SavedValidation
from vader.spec import RunSpec


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
        values = ((record["step"], finite(record.get(key))) for record in self.records)
        return [(float(step), value) for step, value in values if value is not None]

    def clip_path(self, step: int, file: str) -> Path:
        """Where a clip of a validation lies."""
        return RunFolder(self.folder).validation(step) / file


def read_run(path: Path) -> RunData:
    """Read the files of a run folder.

    Raises:
        RunFolderError: when the folder holds neither a spec, nor metrics, nor samples.
    """
    folder = RunFolder(path)
    if not any(part.exists() for part in (folder.spec, folder.metrics, folder.samples)):
        raise RunFolderError(
            f"{path} is not a run folder: it holds no {SPEC}, {METRICS} or {SAMPLES}. "
            "Give the folder that `vader train` wrote (the spec's `output`)."
        )
    text = folder.read_spec()
    return RunData(
        folder=path,
        spec=_spec(text),
        spec_text=text,
        environment=folder.read_environment(),
        records=tuple(folder.read_metrics()),
        validations=tuple(_validations(folder.read_validations())),
        checkpoints=tuple(one.name for one in step_folders(folder.checkpoints)),
    )


def _spec(text: str) -> RunSpec | None:
    try:
        return RunSpec.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError):
        return None


def _validations(saved: Sequence[SavedValidation]) -> Iterator[Validation]:
    """Those made with the settings of the last one; a resumed run may have changed how it validates."""
    for one in saved:
        if one.settings != saved[-1].settings or not one.validation.clips:
            continue
        clips = [
            replace(clip, scores={key: value for key, value in clip.scores.items() if finite(value) is not None})
            for clip in one.validation.clips
        ]
        yield replace(one.validation, clips=tuple(clips))
