"""``vader evaluate``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vader.cli.arguments import Adapter, Processes, Scale, Set, Source, Trust, shared_out
from vader.cli.comparison import compare
from vader.cli.output import console, hide_loading_bars, printable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    context: typer.Context,
    source: Source,
    adapter: Adapter = None,
    adapter_scale: Scale = 1.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the clips.")] = None,
    processes: Processes = None,
    set_: Set = None,
    trust_code: Trust = False,
) -> None:
    """Judge a model on the validation prompts, with its adapter and without."""
    shared_out(context, processes)
    from vader.runs import lifeline
    from vader.runs.evaluation import evaluate as run_evaluation

    lifeline.hold()
    hide_loading_bars()

    screen = console()
    with screen.status("loading ...") as status:
        result = run_evaluation(
            source,
            adapter=adapter,
            adapter_scale=adapter_scale,
            output=output,
            overrides=set_ or [],
            trust_code=trust_code,
            progress=lambda done, total: status.update(f"clip {done} of {total}"),
            notice=lambda text: typer.echo(text, err=True),
        )
    if result.adapted is not None:
        compare(screen, result.base, result.adapted)
    else:
        for key in result.base.keys:
            screen.print(f"{printable(key)}  {result.base.mean(key):.4g}", soft_wrap=True)
