"""``vader generate``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vader.cli.arguments import Adapter, Processes, Scale, Set, Source, Trust, shared_out
from vader.cli.output import hide_loading_bars

if TYPE_CHECKING:
    from vader.protocols import Prompt


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(generate)


def generate(
    context: typer.Context,
    source: Source,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt; may be repeated.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Image that the clips begin with: one for all prompts, or one for each.")
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="File of prompts: text with one a line, or .yaml, .json, .jsonl, .csv, .tsv.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of the noise; may be repeated.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the clips.")] = Path("clips"),
    adapter: Adapter = None,
    adapter_scale: Scale = 1.0,
    file_type: Annotated[str, typer.Option(help="mp4, gif or png.")] = "mp4",
    grid: Annotated[bool, typer.Option("--grid", help="Also write all clips side by side.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips made at once.")] = 1,
    enlarge: Annotated[int, typer.Option(min=1, help="Whole-number enlargement, for tiny clips.")] = 1,
    processes: Processes = None,
    set_: Set = None,
    trust_code: Trust = False,
) -> None:
    """Make clips from prompts, with a run's adapter or without."""
    from vader.errors import Problem, SpecError
    from vader.prompts.rows import read_rows

    prompts = _with_images(prompt or [], image or [])
    try:
        if prompts_file is not None:
            rows = read_rows(prompts_file)
            prompts += rows.prompts
            typer.echo("".join(f"{notice}\n" for notice in rows.notices), err=True, nl=False)
    except ValueError as error:
        raise SpecError([Problem("--prompts-file", str(error))]) from error
    if not prompts:
        raise SpecError([Problem("--prompt", "no prompt. Give --prompt TEXT or --prompts-file FILE.")], "the command")
    if file_type not in ("mp4", "gif", "png"):
        raise SpecError([Problem("--file-type", f"expected mp4, gif or png; found {file_type!r}.")], "the command")
    shared_out(context, processes)
    from vader.runs import lifeline
    from vader.runs.generation import generate as run_generation

    lifeline.hold()
    hide_loading_bars()

    made = run_generation(
        source,
        prompts,
        seeds=seed or [0],
        adapter=adapter,
        adapter_scale=adapter_scale,
        output=output,
        file_type=file_type,
        grid=grid,
        batch_size=batch_size,
        enlarge=enlarge,
        overrides=set_ or [],
        trust_code=trust_code,
        progress=lambda done, total: typer.echo(f"clip {done} of {total}", err=True),
        notice=lambda text: typer.echo(text, err=True),
    )
    for clip in made:
        typer.echo(f"{clip.file}  seed {clip.seed}  {clip.prompt}")


def _with_images(texts: list[str], images: list[Path]) -> list[Prompt]:
    """The prompts of the command line.

    Raises:
        SpecError: there are neither as many images as texts nor one, or one cannot be read.
    """
    from vader.backbones.images import opened
    from vader.errors import Problem, SpecError
    from vader.paths import user_path
    from vader.protocols import Prompt

    if images and len(images) not in (1, len(texts)):
        message = f"{len(images)} images for {len(texts)} prompts; expected one for all, or one for each --prompt."
        raise SpecError([Problem("--image", message)], "the command")
    for path in images:
        try:
            opened(user_path(path))
        except ValueError as error:
            raise SpecError([Problem("--image", str(error))], "the command") from error
    given: list[Path | None] = [user_path(path) for path in images] or [None]
    return [Prompt(text, image=given[index % len(given)]) for index, text in enumerate(texts)]
