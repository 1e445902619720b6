"""``vader report`` and ``vader compare``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)
    app.command()(compare)


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run; with --serve also one above some.")],
    serve: Annotated[
        bool, typer.Option("--serve", help="Show it in a browser, and every run below the folder, until Ctrl-C.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(help="Write this .mp4 or .gif instead: the same clips, validation after validation."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --serve; 0 takes a free one.")] = 0,
) -> None:
    """Write a run's report.html again from its files, or serve it on this machine."""
    from vader.paths import user_path
    from vader.report import write_report

    if history is not None:
        from vader.report.history import write_history

        typer.echo(str(write_history(user_path(run), user_path(history))))
    elif serve:
        _serve(user_path(run), port)
    else:
        typer.echo(str(write_report(user_path(run))))


def _serve(folder: Path, port: int) -> None:
    from vader.errors import Problem, RunFolderError, SpecError
    from vader.report.server import ReportServer

    try:
        server = ReportServer(folder, port)
    except RunFolderError:
        raise
    except OSError as error:
        message = f"cannot listen on port {port} of this machine: {error.strerror}. Take another, or 0 for a free one."
        raise SpecError([Problem("--port", message)], "the command") from error
    with server:
        typer.echo(f"{server.url}\nOnly this machine can open it. Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("ended.")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of two to eight runs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("compare.html"),
) -> None:
    """Write one page about several runs: curves over each other, scores, the same prompt's clips, specs."""
    from vader.paths import user_path
    from vader.report import write_comparison

    typer.echo(str(write_comparison([user_path(run) for run in runs], user_path(output))))
