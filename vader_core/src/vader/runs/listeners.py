"""Listeners of vader's own: the metrics file and the trackers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vader.errors import RunFolderError
from vader.runs.events import Run, Validation, hookimpl

if TYPE_CHECKING:
    from accelerate import Accelerator


class MetricsFile:
    """Appends a JSON object to ``metrics.jsonl`` at every optimizer step; values that are not finite become null."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        line = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"cannot write {str(self._path)!r}: {error.strerror}. Make room, then resume the run."
            ) from error


class Trackers:
    """Passes metrics on to the trackers that accelerate has started."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @hookimpl
    def vader_run_started(self, run: Run) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._accelerator.init_trackers("vader", config={"spec": run.spec.to_yaml()})

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._accelerator.log(dict(metrics), step=step)

    @hookimpl
    def vader_validation_finished(self, run: Run, validation: Validation) -> None:
        """See :class:`vader.runs.events.Events`."""
        means = {f"validation/{key}": validation.mean(key) for key in validation.keys}
        self._accelerator.log(means, step=validation.step)
