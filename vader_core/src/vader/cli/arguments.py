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
Source = Annotated[str, typer.Argument(metavar="SPEC|RUN", help="A spec in YAML, or the folder of a run.")]
