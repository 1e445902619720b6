"""The folder of a run: the one module that knows its format, for writing and for reading.

::

    spec.yaml  metrics.jsonl  environment.json  report.html
    checkpoints/step-000100/    samples/step-000100/{validation.json, clip-000.mp4}    adapter/    best/

Reading is forgiving, because a report is wanted most when a run went wrong: what cannot be read is left out.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vader.errors import RunFolderError
from vader.runs.events import ClipSize, Validation
from vader.runs.validation_file import FILE as VALIDATION
from vader.runs.validation_file import SavedValidation, read_validation, write_validation
from vader.spec import RunSpec
from vader.storage import write_json, write_text

SPEC, METRICS, ENVIRONMENT, REPORT = "spec.yaml", "metrics.jsonl", "environment.json", "report.html"
CHECKPOINTS, SAMPLES, ADAPTER, BEST = "checkpoints", "samples", "adapter", "best"

Record = Mapping[str, Any]
"""One line of metrics.jsonl."""


def step_folder(step: int) -> str:
    """The name of what belongs to an optimizer step: ``step-000100``."""
    return f"step-{step:06d}"


def step_folders(parent: Path) -> list[Path]:
    """What is in a folder by optimizer step, in order."""
    return sorted(parent.glob("step-*"))


def written_scale(height: int, width: int) -> int:
    """How many times tiny clips are enlarged where they are written, for players."""
    return max(1, 128 // min(height, width))


def written_size(frames: int, height: int, width: int, fps: float) -> ClipSize:
    """The size of a clip's video file: enlarged when tiny, and filled up to even numbers, which H.264 needs."""
    scale = written_scale(height, width)
    high, wide = height * scale, width * scale
    return ClipSize(frames, high + high % 2, wide + wide % 2, fps)


class RunFolder:
    """Paths of a run, and its files.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- where things are

    @property
    def spec(self) -> Path:
        """The resolved spec."""
        return self.path / SPEC

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object an optimizer step."""
        return self.path / METRICS

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / REPORT

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def adapter(self) -> Path:
        """Folder of the adapter that the run ended with."""
        return self.path / ADAPTER

    @property
    def best(self) -> Path:
        """Folder of the adapter with the best validation, under ``train.early_stop``."""
        return self.path / BEST

    @property
    def samples(self) -> Path:
        """Folder of the validations' clips."""
        return self.path / SAMPLES

    def validation(self, step: int) -> Path:
        """Folder of the validation after ``step`` optimizer steps: its clips and its result."""
        return self.samples / step_folder(step)

    # -- what it is

    @property
    def described(self) -> bool:
        """Whether it has a spec, as the folder of a run has."""
        return self.spec.is_file()

    @property
    def begun(self) -> bool:
        """Whether it holds a run."""
        return self.described or bool(step_folders(self.checkpoints))

    def require_run(self) -> None:
        """Check that it is the folder of a run.

        Raises:
            RunFolderError: it has no spec.
        """
        if not self.described:
            raise RunFolderError(f"{str(self.path)!r} is not the folder of a run: it has no {SPEC}.")

    def require_space(self, needed: int) -> None:
        """Check that there is room.

        Raises:
            RunFolderError: fewer than ``needed`` bytes are free.
        """
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunFolderError(
                f"output: {str(self.path)!r} has {free / 2**20:.0f} MiB free; "
                f"the run needs at least {needed / 2**20:.0f} MiB."
            )

    def make(self) -> None:
        """Make the folder and those in it.

        Raises:
            RunFolderError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".probe.partial"
            probe.write_text("probe", encoding="utf-8")
            probe.unlink()
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"output: cannot write to {str(self.path)!r}: {error.strerror}. "
                "Choose a writable folder ('output:' in the spec)."
            ) from error

    def clear_partial(self) -> None:
        """Remove what an interrupted write left behind, at any depth."""
        depths = (".*.partial*", "*/.*.partial*", "*/*/.*.partial*")
        for left in [path for pattern in depths for path in self.path.glob(pattern)]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    # -- what is written and read

    def write_spec(self, spec: RunSpec) -> None:
        """Write ``spec.yaml``."""
        write_text(self.spec, spec.to_yaml())

    def read_spec(self) -> str:
        """The text of ``spec.yaml``; empty without one."""
        return _text(self.spec)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``."""
        write_json(self.path / ENVIRONMENT, environment)

    def read_environment(self) -> Mapping[str, Any]:
        """``environment.json``; empty when there is none that can be read."""
        found = _json(_text(self.path / ENVIRONMENT))
        return found if isinstance(found, dict) else {}

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the line of an optimizer step; values that are not finite become null.

        Raises:
            RunFolderError: it cannot be written.
        """
        line = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"cannot write {str(self.metrics)!r}: {error.strerror}. Make room, then resume the run."
            ) from error

    def read_metrics(self) -> list[Record]:
        """The lines by step, each step once; torn lines are left out.

        A run resumed from an earlier checkpoint repeats steps: what came after that point goes.
        """
        records: list[Record] = []
        for line in _text(self.metrics).splitlines():
            record = _json(line)
            if not isinstance(record, dict) or finite(record.get("step")) is None:
                continue
            while records and records[-1]["step"] >= record["step"]:
                records.pop()
            records.append(record)
        return records

    def trim_metrics(self, step: int) -> None:
        """Drop lines of optimizer steps after ``step``: they will be made again. Torn lines go too."""
        if self.metrics.is_file():
            kept = [line for line in self.read_metrics() if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def write_validation(self, validation: Validation, settings: str) -> None:
        """Write the result of a validation beside its clips. ``settings`` names what it was made with."""
        write_validation(self.validation(validation.step), validation, settings)

    def read_validation(self, step: int) -> SavedValidation | None:
        """The validation after ``step`` optimizer steps, if there is one that can be read."""
        return read_validation(self.validation(step))

    def read_validations(self) -> list[SavedValidation]:
        """Every validation that can be read, by step."""
        read = [read_validation(path.parent) for path in self.samples.glob(f"step-*/{VALIDATION}")]
        return sorted((one for one in read if one is not None), key=lambda one: one.validation.step)


def finite(value: object) -> float | None:
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
