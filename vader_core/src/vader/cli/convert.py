"""Commands that convert weights and adapters of other programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vader.resolve.components import ResolvedComponent
    from vader.weights.conversion import Progress

convert = typer.Typer(no_args_is_help=True, help="Convert weights and adapters of other programs.")

Backbone = Annotated[str, typer.Option("--backbone", "-b", help="The backbone they are for.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the ``vader`` command."""
    app.add_typer(convert, name="convert")


@convert.command()
def weights(
    source: Annotated[str, typer.Argument(help="A file, folder or hub id, as the backbone's option weights takes it.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    backbone: Backbone,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16, for what runs in the run's precision.")
    ] = None,
) -> None:
    """Write a checkpoint as safetensors, which needs no pickle and loads faster."""
    from vader.errors import Problem, SpecError
    from vader.paths import user_path

    kinds = ("float32", "float16", "bfloat16")
    if dtype is not None and dtype not in kinds:
        raise SpecError([Problem("--dtype", f"expected {', '.join(kinds)}; found {dtype!r}.")], "the command")
    part = _part(backbone, {"weights": source})
    from vader.resolve.conversion import conversion_of
    from vader.weights.conversion import write

    conversion = conversion_of(part, dtype)
    with _bar() as progress:
        size = write(conversion, user_path(target), progress)
    typer.echo(f"wrote {len(conversion.shapes)} tensors to {target} ({size:,} bytes), read back and compared")


@convert.command()
def adapter(
    source: Annotated[str, typer.Argument(help="An adapter's folder, file or hub:owner/name[:file], in any format.")],
    target: Annotated[
        Path,
        typer.Argument(
            help="A new folder (peft's layout and diffusers'), a .safetensors file (see --format), or a .pt file (the "
            "backbone's own format)."
        ),
    ],
    backbone: Backbone,
    form: Annotated[
        str | None,
        typer.Option("--format", help="Of a .safetensors file: diffusers, comfyui, kohya (musubi too) or videox_fun."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The weights that it was made for, if not the published ones.")
    ] = None,
) -> None:
    """Write a LoRA adapter in another format."""
    part = _part(backbone, {} if weights is None else {"weights": weights})
    from vader.paths import user_path
    from vader.resolve import adapter_source
    from vader.resolve.conversion import convert_adapter

    path = adapter_source.locate(source)
    assert path is not None
    spec = convert_adapter(part, path, user_path(target), form)
    typer.echo(f"wrote {target}: rank {spec.rank}, alpha {spec.alpha or spec.rank:g}")


def _part(name: str, options: Mapping[str, Any]) -> ResolvedComponent:
    """A backbone with some of its options; the others have their defaults.

    Raises:
        SpecError: there is no such backbone, or it has no such option.
    """
    from vader.errors import SpecError
    from vader.resolve.components import ComponentResolver
    from vader.spec.reading import SpecSource

    source = SpecSource({}, None)
    problems: list[Any] = []
    parts = ComponentResolver(source, problems)
    parts.load("backbone", ("--backbone",), name, options)
    if problems:
        raise SpecError(problems, "the command")
    return parts.found[("--backbone",)]


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar with rate and time left in a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Bar(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield progress
