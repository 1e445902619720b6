"""``vader report``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write a run's report.html again from its files."""
    from vader.paths import user_path
    from vader.report import write_report

    typer.echo(str(write_report(user_path(run))))
