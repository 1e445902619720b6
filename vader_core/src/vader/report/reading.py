"""Reading a run folder, forgivingly: a report is wanted most when a run went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vader.errors import RunFolderError
from vader.runs.events import Validation, ValidationClip
from vader.spec import RunSpec

Record = Mapping[str, Any]
"""One line of metrics.jsonl."""


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
        values = ((record["step"], number(record.get(key))) for record in self.records)
        return [(float(step), value) for step, value in values if value is not None]

    def clip_path(self, step: int, file: str) -> Path:
        """Where a clip of a validation lies."""
        return self.folder / "samples" / f"step-{step:06d}" / file


def read_run(folder: Path) -> RunData:
    """Read the files of a run folder.

    Raises:
        RunFolderError: when the folder holds neither a spec, nor metrics, nor samples.
    """
    if not any((folder / name).exists() for name in ("spec.yaml", "metrics.jsonl", "samples")):
        raise RunFolderError(
            f"{folder} is not a run folder: it holds no spec.yaml, metrics.jsonl or samples. "
            "Give the folder that `vader train` wrote (the spec's `output`)."
        )
    spec_text = _text(folder / "spec.yaml")
    environment = _json(_text(folder / "environment.json"))
    return RunData(
        folder=folder,
        spec=_spec(spec_text),
        spec_text=spec_text,
        environment=environment if isinstance(environment, dict) else {},
        records=_records(_text(folder / "metrics.jsonl")),
        validations=tuple(_validations(folder / "samples")),
        checkpoints=tuple(sorted(path.name for path in (folder / "checkpoints").glob("step-*"))),
    )


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(text: str) -> Any:
    """The parsed text, or None for what was torn by an interruption."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _spec(text: str) -> RunSpec | None:
    try:
        return RunSpec.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError):
        return None


def _records(text: str) -> tuple[Record, ...]:
    """The lines by step. A run resumed from an earlier checkpoint repeats steps: what came after that point goes."""
    records: list[Record] = []
    for line in text.splitlines():
        record = _json(line)
        if not isinstance(record, dict) or number(record.get("step")) is None:
            continue
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return tuple(records)


def _validations(samples: Path) -> Iterator[Validation]:
    """Those made with the settings of the last one; a resumed run may have changed how it validates."""
    read = [_json(_text(path)) for path in samples.glob("step-*/validation.json")]
    found = [data for data in read if isinstance(data, dict) and isinstance(data.get("step"), int)]
    for data in sorted(found, key=lambda data: int(data["step"])):
        if data.get("settings") != max(found, key=lambda data: int(data["step"])).get("settings"):
            continue
        clips = [_clip(item) for item in data.get("clips") or () if isinstance(item, dict)]
        if clips:
            yield Validation(data["step"], tuple(clips))


def _clip(item: Mapping[str, Any]) -> ValidationClip:
    given, file = item.get("scores"), item.get("file")
    scores = {str(key): number(value) for key, value in given.items()} if isinstance(given, dict) else {}
    return ValidationClip(
        index=int(number(item.get("index")) or 0),
        prompt=str(item.get("prompt", "")),
        seed=int(item["seed"]) if isinstance(item.get("seed"), int) else 0,
        scores={key: value for key, value in scores.items() if value is not None},
        file=Path(file).name if isinstance(file, str) and file else None,
    )
