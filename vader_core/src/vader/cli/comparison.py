"""Scores before and after, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vader.cli.output import printable

if TYPE_CHECKING:
    from rich.console import Console

    from vader.runs.events import Validation


def compare(screen: Console, before: Validation, after: Validation) -> None:
    """A table of mean scores before and after, with the paired gain."""
    from rich.table import Table

    from vader.report.statistics import paired_change

    table = Table(
        "score", "before", "after", "gain (95 % interval)", title=f"{len(before.clips)} clips, same prompts and seeds"
    )
    for key in before.keys:
        first, second = [clip.scores[key] for clip in before.clips], [clip.scores[key] for clip in after.clips]
        change = paired_change(first, second)
        gain = f"{change.difference:+.4g}"
        if change.interval is not None:
            gain += f" ({change.interval.low:+.4g} to {change.interval.high:+.4g})"
        table.add_row(printable(key), f"{change.before:.4g}", f"{change.after:.4g}", gain)
    screen.print(table)
