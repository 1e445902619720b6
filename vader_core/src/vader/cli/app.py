"""The command line: parses, calls the verbs, prints. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from vader import __version__
from vader.cli import convert as cli_convert
from vader.cli import estimate as cli_estimate
from vader.cli import evaluate as cli_evaluate
from vader.cli import generate as cli_generate
from vader.cli import plugins as cli_plugins
from vader.cli import prompts as cli_prompts
from vader.cli import push as cli_push
from vader.cli import report as cli_report
from vader.cli import reward as cli_reward
from vader.cli import spec as cli_spec
from vader.cli import train as cli_train
from vader.cli.output import lost, unfailing
from vader.errors import NO_MEMORY, PeerLost, VaderError, out_of_memory
from vader.runs.launch import PEER_LOST
from vader.runs.lifeline import LAUNCHER

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align text-to-video diffusion models with reward gradients.",
)


def main() -> None:
    """Entry point of the ``vader`` command. A user's mistake is one message and exit code 2.

    Where stdout cannot be written, a run goes on; a command whose product is what it prints fails.
    """
    arguments = sys.argv[1:]
    with unfailing() as (out, _):
        try:
            _main(arguments)
        except SystemExit as stop:
            out.flush()
            reason = lost(out)
            if reason is None or stop.code not in (0, None) or not _PRINTED & set(arguments[:1]):
                raise
            _fail(f"what was printed could not be written to stdout: {reason}.", 1)


_PRINTED = frozenset({"evaluate", "estimate", "schema", "plugins", "prompts", "check"})
"""Commands whose product is what they print."""


def _warn(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
    """One line for a warning of vader's own, without the code that gave it; as Python does it for others."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        print(f"warning: {message}", file=sys.stderr)
    else:
        _shown_by_python(message, category, filename, *where, **more)


_shown_by_python = warnings.showwarning


def _main(arguments: list[str]) -> None:
    debug = "--debug" in arguments
    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _warn
            app(args=[argument for argument in arguments if argument != "--debug"], prog_name="vader")
    except PeerLost as error:
        if LAUNCHER in os.environ:  # which says who it was
            sys.exit(PEER_LOST)
        _fail(str(error), 2)
    except VaderError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except Exception as error:
        if debug:
            raise
        if out_of_memory(error):
            _fail(f"{type(error).__name__}: {error}\n{NO_MEMORY}", 1)
        _fail(
            f"{type(error).__name__}: {error}\nThis is not a known mistake of use; --debug shows where it comes from.",
            1,
        )


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show stack traces.")] = False,
) -> None:
    pass


cli_train.register(app)
cli_generate.register(app)
cli_evaluate.register(app)
cli_report.register(app)
cli_push.register(app)
cli_convert.register(app)
cli_estimate.register(app)
cli_plugins.register(app)
cli_prompts.register(app)
cli_reward.register(app)
cli_spec.register(app)
