"""Options and arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a field; may be repeated.")
]
Adapter = Annotated[
    str | None, typer.Option(help="Adapter folder, file or hub:owner/name[:file], in place of the run's own.")
]
Scale = Annotated[float, typer.Option(help="Scale of the adapter's update; 0 is the base model.")]
Trust = Annotated[
    bool, typer.Option("--trust-code", help="Run code that the spec names outside its folder, or another user's.")
]
Processes = Annotated[int | None, typer.Option(min=1, help="Start this many processes.")]
Source = Annotated[str, typer.Argument(metavar="SPEC|RUN", help="A spec in YAML, or the folder of a run.")]


def again(context: typer.Context) -> list[str]:
    """The command line that gives this command what it was given, without ``--processes``."""
    options: list[str] = [context.command.name or ""]
    plain: list[str] = []
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.param_type_name == "argument":
            plain.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        elif parameter.name != "processes" and value not in (None, False):
            options += [f"{parameter.opts[0]}={one}" for one in (value if isinstance(value, list | tuple) else [value])]
    return [*options, "--", *plain]


def shared_out(context: typer.Context, processes: int | None) -> None:
    """Run this command in several processes, where they are asked for and not started yet, and end as they do."""
    from vader.runs import launch

    if launch.started() is not None:
        launch.require_processes(processes)
    elif processes is not None and processes > 1:
        raise SystemExit(launch.relaunch(again(context), processes, "Start the command again."))
