"""The command line: parses, calls the verbs, prints. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vader import __version__
from vader.cli import convert as cli_convert
from vader.cli import estimate as cli_estimate
from vader.cli import plugins as cli_plugins
from vader.cli import prompts as cli_prompts
from vader.cli import reward as cli_reward
from vader.cli import spec as cli_spec
from vader.cli.output import console, lost, printable, unfailing
from vader.errors import PeerLost, VaderError
from vader.runs.launch import PEER_LOST
from vader.runs.lifeline import LAUNCHER

if TYPE_CHECKING:
    from rich.console import Console

    from vader.protocols import Prompt
    from vader.runs.events import Validation
    from vader.spec import RunSpec

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Align text-to-video diffusion models with reward gradients.",
)

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


def _main(arguments: list[str]) -> None:
    debug = "--debug" in arguments
    try:
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
        _fail(
            f"{type(error).__name__}: {error}\nThis is not a known mistake of use; --debug shows where it comes from.",
            1,
        )


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _hide_loading_bars() -> None:
    """transformers draws a bar for every file it loads, through ours; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


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


@app.command()
def train(
    spec: Annotated[str, typer.Argument(help="The run spec, a YAML file.")],
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest sound checkpoint.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Start this many processes.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the spec and stop.")] = False,
    trust_code: Trust = False,
) -> None:
    """Align a model: train an adapter on rewards, and write a report."""
    from vader.resolve.validate import resolve
    from vader.runs import launch

    overrides = list(set_ or [])
    if processes is not None:
        overrides.append(f"train.processes={processes}")
    plan = resolve(spec, overrides, download=False, trust_code=trust_code)
    checked = plan.spec
    if dry_run:
        typer.echo("".join(f"{notice}\n" for notice in plan.notices), err=True, nl=False)
        typer.echo(f"{spec} is sound.{_to_download(checked)}{_not_here(checked)}")
        return
    asked = checked.train.processes
    if asked is not None and asked > 1 and launch.started() is None:
        flags = [flag for flag, on in (("--resume", resume), ("--trust-code", trust_code)) if on]
        arguments = ["train", spec, *(f"--set={override}" for override in overrides), *flags]
        raise SystemExit(launch.relaunch(arguments, asked))
    _train(spec, overrides, resume, trust_code)


def _to_download(spec: RunSpec) -> str:
    """What a dry run says of an adapter that it has not seen."""
    from vader.resolve import adapter_source

    init = spec.backbone.adapter.init
    if init is None or adapter_source.locate(init, cached=True) is not None:
        return ""
    return f" Its adapter {init} is not in the hub's cache; a run downloads it, and then judges it."


def _not_here(spec: RunSpec) -> str:
    """What a dry run says of this machine, which need not be the one that the run is for."""
    from vader.paths import user_path
    from vader.resolve.machine import machine_fits
    from vader.runs.folder import RunFolder

    against = [f"{path}: {message}" for path, message in machine_fits(spec)]
    try:
        folder = RunFolder(user_path(spec.output))
        if folder.require_ours() and folder.begun:
            against.append(f"output: {spec.output!r} holds a run already; it takes --resume, or another folder.")
        folder.require_writable()
    except (OSError, RuntimeError) as error:
        against.append(str(error))
    return "".join(f"\nNot as it is on this machine: {one}" for one in against)


def _train(spec: str, overrides: list[str], resume: bool, trust_code: bool) -> None:
    import signal

    from vader.cli.progress import ProgressListener

    screen = console()
    if os.environ.get("RANK", "0") == "0":
        screen.print("loading ...", soft_wrap=True)
    from vader.runs import lifeline
    from vader.runs.folder import RunFolder
    from vader.runs.training import train as run_training

    lifeline.hold()

    _hide_loading_bars()

    progress = ProgressListener(screen)
    try:
        result = run_training(spec, overrides, resume=resume, listeners=[progress], trust_code=trust_code)
    finally:
        progress.close()
    if os.environ.get("RANK", "0") != "0":
        return
    if result.stopped is not None:
        if result.step:
            screen.print(
                f"stopped by {result.stopped} after optimizer step {result.step}; saved. Go on with --resume.",
                soft_wrap=True,
            )
        else:
            said = "before the first optimizer step; nothing to save. Start it again."
            screen.print(f"stopped by {result.stopped} {said}", soft_wrap=True)
        raise SystemExit(128 + signal.Signals[result.stopped])
    if len(result.validations) >= 2:
        kept = [validation for validation in result.validations if validation.step == result.adapter_step]
        _compare(screen, result.validations[0], (kept or result.validations)[-1])
    folder = RunFolder(result.folder)
    screen.print(f"adapter  {folder.adapter}\nreport   {folder.report}", soft_wrap=True)


def _compare(screen: Console, before: Validation, after: Validation) -> None:
    """A table of mean scores before and after, with the paired gain."""
    from rich.table import Table

    from vader.report.statistics import paired_change

    table = Table(
        "score", "before", "after", "gain (95 % interval)", title=f"{len(before.clips)} clips, same prompts and seeds"
    )
    for key in before.keys:
        first, second = [clip.scores[key] for clip in before.clips], [clip.scores[key] for clip in after.clips]
        change = paired_change(first, second)
        gain = f"{change.difference:+.4g}"
        if change.interval is not None:
            gain += f" ({change.interval.low:+.4g} to {change.interval.high:+.4g})"
        table.add_row(printable(key), f"{change.before:.4g}", f"{change.after:.4g}", gain)
    screen.print(table)


@app.command()
def generate(
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
    from vader.runs.generation import generate as run_generation

    _hide_loading_bars()

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


@app.command()
def evaluate(
    source: Source,
    adapter: Adapter = None,
    adapter_scale: Scale = 1.0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the clips.")] = None,
    set_: Set = None,
    trust_code: Trust = False,
) -> None:
    """Judge a model on the validation prompts, with its adapter and without."""
    from vader.runs.evaluation import evaluate as run_evaluation

    _hide_loading_bars()

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
        )
    if result.adapted is not None:
        _compare(screen, result.base, result.adapted)
    else:
        for key in result.base.keys:
            screen.print(f"{printable(key)}  {result.base.mean(key):.4g}", soft_wrap=True)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write a run's report.html again from its files."""
    from vader.paths import user_path
    from vader.report import write_report

    typer.echo(str(write_report(user_path(run))))


cli_convert.register(app)
cli_estimate.register(app)
cli_plugins.register(app)
cli_prompts.register(app)
cli_reward.register(app)
cli_spec.register(app)
