"""Writing the report as a run goes."""

from __future__ import annotations

import warnings

from vader.report.page import write_report
from vader.runs.events import Run, hookimpl


class ReportListener:
    """Writes report.html after each validation and at the end of a run.

    A report that cannot be written is a warning, never the end of a run: ``vader report`` rebuilds it at any time.
    """

    @hookimpl
    def vader_validation_finished(self, run: Run) -> None:
        """The validation's files are in the run folder by now."""
        self._write(run)

    @hookimpl
    def vader_run_finished(self, run: Run) -> None:
        """All of the run's files are there."""
        self._write(run)

    def _write(self, run: Run) -> None:
        try:
            write_report(run.folder)
        except Exception as error:
            warnings.warn(
                f"report.html is not written: {type(error).__name__}: {error}. "
                f"`vader report {run.folder}` writes it later.",
                stacklevel=2,
            )
