"""``vader push``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(push)


def push(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; made if there is none.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the folder and upload nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Of --dry-run: the folder to write. Default: NAME.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the adapter, as the hub writes it: apache-2.0.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Share a run's adapter: in the layout that diffusers loads, with a model card written from the run."""
    from vader.paths import user_path
    from vader.sharing import push as upload
    from vader.sharing import write_folder
    from vader.sharing.folder import require_name

    require_name(name)
    if dry_run:
        target = user_path(output if output is not None else name.split("/")[1])
        typer.echo(str(write_folder(user_path(run), name, target, licence)))
    else:
        typer.echo(upload(user_path(run), name, licence=licence, private=private))
