"""Listeners of vader's own: the metrics file and the trackers."""

from __future__ import annotations

from collections.abc import Mapping

from vader.runs.engine import Engine
from vader.runs.events import Run, Validation, hookimpl
from vader.runs.folder import RunFolder


class MetricsFile:
    """Appends a JSON object to ``metrics.jsonl`` at every optimizer step; values that are not finite become null."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._folder.append_metrics(step, metrics)


class Trackers:
    """Passes metrics on to the trackers of the spec."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @hookimpl
    def vader_run_started(self, run: Run) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._engine.start_trackers({"spec": run.spec.to_yaml()})

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._engine.log(metrics, step)

    @hookimpl
    def vader_validation_finished(self, run: Run, validation: Validation) -> None:
        """See :class:`vader.runs.events.Events`."""
        means = {f"validation/{key}": validation.mean(key) for key in validation.keys}
        self._engine.log(means, validation.step)
