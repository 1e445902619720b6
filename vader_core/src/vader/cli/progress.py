"""Progress of a run in the terminal: a listener of the same events as anyone's."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vader.cli.output import printable
from vader.runs.events import Run, RunResult, Validation, hookimpl
from vader.runs.folder import RunFolder

_SECONDS_BETWEEN_LINES = 10.0


def _columns(width: int) -> list[ProgressColumn]:
    """What fits in a terminal so wide: step count and time left always, the other figures where there is room."""
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
    if width >= _WITH_SPEED:
        columns.append(BarColumn(bar_width=40 if width >= _WITH_ALL else 10))
    columns.append(MofNCompleteColumn())
    if width >= _WITH_SPEED:
        columns.append(TextColumn("{task.fields[said]}{task.fields[speed]}", markup=False))
    elif width >= _WITH_REWARD:
        columns.append(TextColumn("{task.fields[said]}", markup=False))
    if width >= _WITH_ALL:
        columns.append(TimeElapsedColumn())
    return [*columns, TextColumn("left"), TimeRemainingColumn()]


_WITH_REWARD, _WITH_SPEED, _WITH_ALL = 52, 80, 110
"""Widths from which there is room for the reward, for bar and seconds a step, and for the time elapsed."""


class PacedLines:
    """Prints a line every ten seconds where there is no terminal, whose bars say the same."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def __call__(self, text: str, *, force: bool = False) -> None:
        """Print a line, if it is time for one, or in any case."""
        now = time.monotonic()
        if not self._console.is_terminal and (force or now - self._last >= _SECONDS_BETWEEN_LINES):
            self._last = now
            self._console.print(text, soft_wrap=True)


class ProgressListener:
    """A bar with reward, rate and time left in a terminal; a line every ten seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._line = PacedLines(console)
        self._progress = Progress(*_columns(console.width), console=console, disable=not console.is_terminal)
        self._training: TaskID | None = None
        self._validating: TaskID | None = None
        self._encoding: TaskID | None = None

    @hookimpl
    def vader_run_started(self, run: Run) -> None:
        """See :class:`vader.runs.events.Events`."""
        resumed = f", resuming after optimizer step {run.start_step}" if run.start_step else ""
        where = f"{run.processes} process{'es' if run.processes > 1 else ''}"
        self._console.print(
            Text("run ") + Text(printable(str(run.folder)), "bold") + Text(f" on {where}{resumed}"), soft_wrap=True
        )
        self._console.print(
            f"its report, written as it goes: {printable(str(RunFolder(run.folder).report))}", soft_wrap=True
        )
        self._progress.start()

    @hookimpl
    def vader_encoding_progress(self, run: Run, done: int, total: int) -> None:
        """See :class:`vader.runs.events.Events`."""
        if self._encoding is None:
            self._encoding = self._progress.add_task("encoding", total=total, said="prompts", speed="")
        self._progress.update(self._encoding, completed=done)
        self._line(f"encoding prompts: {done} of {total}")
        if done == total:
            self._progress.remove_task(self._encoding)
            self._encoding = None

    @hookimpl
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`vader.runs.events.Events`."""
        total = run.spec.train.steps
        said, speed = f"reward {metrics['reward']:.4g}", f"  {metrics['time/step']:.2g} s a step"
        if self._training is None:
            self._training = self._progress.add_task("training", total=total, completed=step, said=said, speed=speed)
        self._progress.update(self._training, completed=step, said=said, speed=speed)
        left = (total - step) * metrics["time/step"]
        self._line(f"optimizer step {step} of {total}  {said}{speed}  about {left:.0f} s left", force=step == total)

    @hookimpl
    def vader_validation_progress(self, run: Run, step: int, done: int, total: int) -> None:
        """See :class:`vader.runs.events.Events`."""
        if self._validating is None:
            self._validating = self._progress.add_task("validation", total=total, said=f"after step {step}", speed="")
        self._progress.update(self._validating, completed=done)
        self._line(f"validation after step {step}: clip {done} of {total}")

    @hookimpl
    def vader_validation_finished(self, run: Run, validation: Validation) -> None:
        """See :class:`vader.runs.events.Events`."""
        if self._validating is not None:
            self._progress.remove_task(self._validating)
            self._validating = None
        means = "  ".join(f"{printable(key)} {validation.mean(key):.4g}" for key in validation.keys)
        self._console.print(f"validation after step {validation.step}: {means}", soft_wrap=True)

    @hookimpl
    def vader_notice(self, run: Run, text: str) -> None:
        """See :class:`vader.runs.events.Events`."""
        self._console.print(Text("note:", "yellow") + Text(f" {text}"), soft_wrap=True)

    @hookimpl
    def vader_run_finished(self, run: Run, result: RunResult) -> None:
        """See :class:`vader.runs.events.Events`."""
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()
