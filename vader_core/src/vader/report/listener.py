"""Writing the report as a run goes."""

from __future__ import annotations

import time
import warnings

from vader.report.page import write_report
from vader.runs.events import Run, hookimpl

EVERY = 5.0
"""Seconds between two writings of the live report, at least."""
_SHARE = 50.0
"""And as many times the seconds that a writing took, so that it costs a run no more than a fiftieth of its time."""


class ReportListener:
    """Writes report.html every few seconds, after each validation and at the end of a run.

    A report that cannot be written is a warning, never the end of a run: ``vader report`` rebuilds it at any time.
    """

    def __init__(self) -> None:
        self._next = time.monotonic() + EVERY

    @hookimpl
    def vader_run_started(self, run: Run) -> None:
        """The clock of the live report starts."""
        self._next = time.monotonic() + EVERY

    @hookimpl
    def vader_encoding_progress(self, run: Run) -> None:
        """A large text encoder takes its time."""
        self._write_if_due(run)

    @hookimpl
    def vader_step_finished(self, run: Run) -> None:
        """The optimizer step's metrics are in the run folder by now."""
        self._write_if_due(run)

    @hookimpl
    def vader_validation_progress(self, run: Run) -> None:
        """A validation may take longer than all else."""
        self._write_if_due(run)

    @hookimpl
    def vader_validation_finished(self, run: Run) -> None:
        """The validation's files are in the run folder by now."""
        self._write(run, live=True)

    @hookimpl
    def vader_run_finished(self, run: Run) -> None:
        """All of the run's files are there."""
        self._write(run, live=False)

    def _write_if_due(self, run: Run) -> None:
        if time.monotonic() >= self._next:
            self._write(run, live=True)

    def _write(self, run: Run, *, live: bool) -> None:
        begun = time.monotonic()
        try:
            write_report(run.folder, live=live)
        except Exception as error:
            self._next = float("inf")
            warnings.warn(
                f"report.html is not written: {str(error).rstrip('.') or type(error).__name__}. "
                f"`vader report {run.folder}` writes it later.",
                stacklevel=2,
            )
        else:
            now = time.monotonic()
            self._next = now + max(EVERY, _SHARE * (now - begun))
