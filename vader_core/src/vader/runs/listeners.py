"""Listeners of vader's own: the metrics file and the trackers."""

from __future__ import annotations

from collections.abc import Mapping

from vader.runs.engine import Engine
from vader.runs.events import Run, Validation, hookimpl
from vader.runs.folder import RunFolder
from vader.runs.trackers import ClipFile, configuration, log_clips, log_text


class MetricsFile:
    """Appends a JSON object to ``metrics.jsonl`` at every optimizer step; values that are not finite become null."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._folder.append_metrics(step, metrics)


class Trackers:
    """Gives the trackers of the spec the spec, figures, clips and notices."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._step = engine, 0

    @hookimpl
    def vader_run_started(self, run: Run) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._step = run.start_step
        self._engine.start_trackers(configuration(run.spec))

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._step = step
        self._engine.log(metrics, step)

    @hookimpl
    def vader_validation_finished(self, run: Run, validation: Validation) -> None:
        """See :class:`vader.runs.events.Events`."""
        means = {f"validation/{key}": validation.mean(key) for key in validation.keys}
        self._engine.log(means, validation.step)
        folder = RunFolder(run.folder).validation(validation.step)
        clips = []
        for clip in validation.clips:
            if clip.file is not None:
                scores = ", ".join(f"{key} {value:.4g}" for key, value in clip.scores.items())
                name = f"validation/clip-{clip.index:03d}"
                clips.append(ClipFile(name, folder / clip.file, f"{clip.prompt} ({scores})"))
        self._engine.tell_trackers(lambda name, tracker: log_clips(name, tracker, clips, validation.step))

    @hookimpl
    def vader_notice(self, run: Run, text: str) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._engine.tell_trackers(lambda name, tracker: log_text(name, tracker, "notice", text, self._step))
