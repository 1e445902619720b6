"""The folder of a run: the one module that knows its format, for writing and for reading.

::

    .vader-run  spec.yaml  metrics.jsonl  environment.json  report.html  code/
    checkpoints/step-000100/    samples/step-000100/{validation.json, clip-000.mp4}    adapter/    best/

Reading is forgiving, because a report is wanted most when a run went wrong: what cannot be read is left out. Nothing
but these names is ever written, replaced or removed: whatever else lies in the folder is the user's.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vader.errors import RunFolderError, VaderError
from vader.runs import metrics_file
from vader.runs.events import ClipSize, Validation
from vader.runs.lock import MARK
from vader.runs.metrics_file import Record as Record
from vader.runs.validation_file import SavedValidation, read_validation, write_validation
from vader.spec import RunSpec
from vader.storage import free_name, write_json, write_text

SPEC, METRICS, ENVIRONMENT, REPORT = "spec.yaml", "metrics.jsonl", "environment.json", "report.html"
CHECKPOINTS, SAMPLES, ADAPTER, BEST = "checkpoints", "samples", "adapter", "best"
_STEP = re.compile(r"step-\d{6,}")
_EMPTY = {MARK, "lost+found"}
"""What an empty folder may hold: the mark of a run that has not begun, and what file systems put into every one."""


def step_folder(step: int) -> str:
    """The name of what belongs to an optimizer step: ``step-000100``."""
    return f"step-{step:06d}"


def step_folders(parent: Path) -> list[Path]:
    """What is in a folder by optimizer step, in order; other names are somebody else's.

    Raises:
        OSError: the folder is there and cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(parent)]
    except FileNotFoundError:
        return []
    return [parent / name for name in sorted(names, key=lambda name: (len(name), name)) if _STEP.fullmatch(name)]


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
        """Whether it holds a run that has made an optimizer step."""
        validated = [path for path in step_folders(self.samples) if path.name != step_folder(0)]
        made = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return made or bool(step_folders(self.checkpoints) or validated) or self.adapter.exists() or self.best.exists()

    def require_ours(self) -> bool:
        """Check that the folder is a run's, or nobody's: it is not there, or empty.

        Returns:
            Whether it is a run's.

        Raises:
            RunFolderError: it holds something else, or cannot be read.
        """
        try:
            names = sorted(entry.name for entry in os.scandir(self.path))
        except FileNotFoundError:
            if self.path.is_symlink():
                raise self._unwritable("it is a link to nothing") from None
            return False
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error
        if not set(names) - _EMPTY:
            return False
        if MARK in names or self._of_an_earlier_version():
            return True
        others = [name for name in names if name not in _EMPTY]
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise RunFolderError(
            f"output: {str(self.path)!r} holds files that are not a run's ({shown}), and is left as it is. "
            f"Choose a new or an empty folder, such as {str(self.path / 'run')!r}."
        )

    def _of_an_earlier_version(self) -> bool:
        """Whether it has no mark, but a spec beside what nobody else writes."""
        saved = any((step / "manifest.json").is_file() for step in step_folders(self.checkpoints))
        return self.described and (saved or "versions" in self.read_environment())

    def require_run(self) -> None:
        """Check that it is the folder of a run.

        Raises:
            RunFolderError: it has no spec.
        """
        if not self.described:
            raise RunFolderError(f"{str(self.path)!r} is not the folder of a run: it has no {SPEC}.")

    def require_writable(self) -> None:
        """Check, leaving no trace, that the folder can be written, or made.

        Raises:
            RunFolderError: it cannot.
        """
        try:
            with tempfile.TemporaryFile(dir=self._nearest()):
                pass
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def require_space(self, needed: int) -> None:
        """Check that there is room.

        Raises:
            RunFolderError: fewer than ``needed`` bytes are free.
        """
        free = shutil.disk_usage(self._nearest()).free
        if free < needed:
            raise RunFolderError(
                f"output: {str(self.path)!r} has {free / 2**20:.0f} MiB free; "
                f"the run needs at least {needed / 2**20:.0f} MiB."
            )

    def _nearest(self) -> Path:
        """The folder, or the nearest above it that is there."""
        return next(path for path in (self.path, *self.path.absolute().parents) if os.path.lexists(path))

    def _unwritable(self, reason: str) -> RunFolderError:
        return RunFolderError(
            f"output: cannot write to {str(self.path)!r}: {reason}. Choose a writable folder ('output:' in the spec)."
        )

    def make(self) -> None:
        """Make the folder and those in it that every run has.

        Raises:
            RunFolderError: it cannot be written.
        """
        try:
            for folder in (self.path, self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error

    def make_validation(self, step: int) -> None:
        """Make the folder of a validation; a file in its way is moved aside."""
        folder = self.validation(step)
        if folder.exists() and not folder.is_dir():
            folder.replace(free_name(folder))
        folder.mkdir(parents=True, exist_ok=True)

    # -- what is written and read

    @contextmanager
    def writing(self, what: Path) -> Iterator[None]:
        """What the system says of a file that it does not write is an error of the run folder.

        Raises:
            RunFolderError: something in ``what`` could not be written.
        """
        try:
            yield
        except VaderError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise RunFolderError(f"cannot write {str(what)!r}: {reason}. Correct that, then resume the run.") from error

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
        """See :func:`vader.runs.metrics_file.append`."""
        metrics_file.append(self.metrics, step, metrics)

    def flush_metrics(self) -> None:
        """See :func:`vader.runs.metrics_file.flush`."""
        metrics_file.flush(self.metrics)

    def read_metrics(self) -> list[Record]:
        """See :func:`vader.runs.metrics_file.read`."""
        return metrics_file.read(self.metrics)

    def trim_metrics(self, step: int) -> int:
        """See :func:`vader.runs.metrics_file.trim`."""
        return metrics_file.trim(self.metrics, step)

    def write_validation(self, validation: Validation, settings: str) -> None:
        """Write the result of a validation beside its clips. ``settings`` names what it was made with."""
        write_validation(self.validation(validation.step), validation, settings)

    def read_validation(self, step: int) -> SavedValidation | None:
        """The validation after ``step`` optimizer steps, if there is one that can be read."""
        found = read_validation(self.validation(step))
        return found if found is not None and found.validation.step == step else None

    def read_validations(self) -> list[SavedValidation]:
        """Every validation that can be read, by step. One that tells another step than its folder's is damaged."""
        read = {path.name: read_validation(path) for path in step_folders(self.samples)}
        sound = [one for name, one in read.items() if one is not None and step_folder(one.validation.step) == name]
        return sorted(sound, key=lambda one: one.validation.step)


def own_file(folder: Path, path: Path) -> bool:
    """Whether a path is a plain file in a folder, and not what a link there points to.

    Args:
        folder: of a run; it may itself be reached by a link.
        path: below it.
    """
    try:
        return path.is_file() and path.resolve() == folder.resolve() / path.relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        return False


def finite(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        return None
    return number if math.isfinite(number) else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(text: str) -> Any:
    """The parsed text, or None for what was torn by an interruption."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
