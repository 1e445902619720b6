"""The commands that help to write a spec: its JSON schema, and a first one to start from."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to an application."""
    app.command()(schema)
    app.command()(init)
    app.command("import-config")(import_config)


class Table(StrEnum):
    """A page of reference that ``vader schema --table`` writes."""

    FIELDS = "fields"
    COMPONENTS = "components"


def schema(
    table: Annotated[
        Table | None, typer.Option(help="Tables in Markdown instead: of the spec's fields, or of components' options.")
    ] = None,
) -> None:
    """Write the JSON schema of the run spec, with the options of every installed component."""
    if table is not None:
        from vader.resolve.reference import components_page, fields_page

        said = fields_page() if table is Table.FIELDS else components_page(lambda text: typer.echo(text, err=True))
        typer.echo(said, nl=False)
        return
    from vader.resolve.installed import option_models
    from vader.spec.schema import run_schema

    typer.echo(json.dumps(run_schema(option_models(lambda text: typer.echo(text, err=True))), indent=2))


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
    recipe: Annotated[str | None, typer.Option(help="Write this recipe of an installed plugin instead.")] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes, and write nothing.")] = False,
) -> None:
    """Write a commented spec to start from, or a recipe."""
    from vader.plugins import recipes as brought
    from vader.resolve.installed import starting_spec
    from vader.spec.template import template

    if recipes:
        for found in brought.recipes():
            about = found.about
            models = ", ".join(f"{model} ({licence})" for model, licence in about.models.items())
            typer.echo(f"{found.name}: {about.vram} GB by estimate; aligns {about.aligns}; {models}")
        return
    _write(path, template(path.name, starting_spec()) if recipe is None else brought.recipe(recipe).text(), force)
    typer.echo(f"wrote {path}. Check it with: vader train {path} --dry-run")


def _write(path: Path, text: str, force: bool) -> None:
    """Write a spec.

    Raises:
        RunFolderError: it is there already, or cannot be written.
    """
    from vader.errors import RunFolderError
    from vader.storage import write_text

    if path.exists() and not force:
        raise RunFolderError(f"{str(path)!r} exists. Use --force to overwrite it, or another name.")
    try:
        write_text(path, text)
    except OSError as error:
        raise RunFolderError(f"cannot write {str(path)!r}: {error.strerror}.") from error


def import_config(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A launch script, or a configuration in YAML or Python.")
    ],
    path: Annotated[Path, typer.Argument(metavar="SPEC", help="The file to write.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite it.")] = False,
) -> None:
    """Translate the settings of another trainer (VADER's reference, VideoX-Fun) into a spec, and list what is lost."""
    from vader.migration.translate import translate

    made = translate(source)
    _write(path, made.to_yaml(), force)
    for note in made.notes:
        typer.echo(f"not translated: {note}", err=True)
    typer.echo(f"wrote {path} from {made.trainer}. Check it with: vader train {path} --dry-run")
