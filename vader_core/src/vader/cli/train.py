"""``vader train``. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vader.cli.arguments import Processes, Set, Trust
from vader.cli.comparison import compare
from vader.cli.output import console, hide_loading_bars

if TYPE_CHECKING:
    from vader.runs.folder import RunFolder
    from vader.spec import RunSpec


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC|RUN", help="The run spec, a YAML file; or a run's folder, with --resume.")
    ],
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest sound checkpoint.")] = False,
    processes: Processes = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the spec and stop.")] = False,
    trust_code: Trust = False,
) -> None:
    """Align a model: train an adapter on rewards, and write a report."""
    from vader.resolve.validate import resolve
    from vader.runs import launch
    from vader.runs.source import to_resume

    overrides = list(set_ or [])
    if processes is not None:
        overrides.append(f"train.processes={processes}")
    source, changes = to_resume(spec, overrides, resume)
    plan = resolve(source, changes, download=False, trust_code=trust_code)
    checked = plan.spec
    if dry_run:
        typer.echo("".join(f"{notice}\n" for notice in plan.notices), err=True, nl=False)
        typer.echo(f"{spec} is sound.{_to_download(checked)}{_not_here(checked, resume)}")
        return
    asked = checked.train.processes
    if asked is not None and asked > 1 and launch.started() is None:
        flags = [flag for flag, on in (("--resume", resume), ("--trust-code", trust_code)) if on]
        arguments = ["train", spec, *(f"--set={override}" for override in overrides), *flags]
        raise SystemExit(launch.relaunch(arguments, asked, "The last checkpoint stands; go on with --resume."))
    _run(spec, overrides, resume, trust_code)


def _to_download(spec: RunSpec) -> str:
    """What a dry run says of an adapter that it has not seen."""
    from vader.resolve import adapter_source

    init = spec.backbone.adapter.init
    if init is None or adapter_source.locate(init, cached=True) is not None:
        return ""
    return f" Its adapter {init} is not in the hub's cache; a run downloads it, and then judges it."


def _not_here(spec: RunSpec, resume: bool) -> str:
    """What a dry run says of this machine, which need not be the one that the run is for."""
    from vader.errors import VaderError
    from vader.paths import user_path
    from vader.resolve.machine import machine_fits
    from vader.runs.folder import RunFolder

    against = [f"{path}: {message}" for path, message in machine_fits(spec)]
    notices: list[str] = []
    try:
        folder = RunFolder(user_path(spec.output))
        if folder.require_ours() and folder.begun and not _to_download(spec):
            notices = _look(folder, spec, resume)
        folder.require_writable()
    except (VaderError, OSError, RuntimeError) as error:
        against.append(str(error))
    return "".join([*(f"\n{one}" for one in notices), *(f"\nNot as it is on this machine: {one}" for one in against)])


def _look(folder: RunFolder, spec: RunSpec, resume: bool) -> list[str]:
    """What a run would say of its folder, which has a run in it, before it begins or goes on; nothing is changed.

    Raises:
        RunFolderError: the run would stop there; as is CheckpointError.
    """
    from vader.runs.lock import RunLock
    from vader.runs.resume import Entry

    notices: list[str] = []
    lock = RunLock(folder.path, notices.append)
    try:
        found = Entry(folder, spec, resume, lock, notices.append).look()
    finally:
        lock.release()
    return [*([f"It goes on after optimizer step {found.step}."] if found is not None else []), *notices]


def _run(spec: str, overrides: list[str], resume: bool, trust_code: bool) -> None:
    import signal

    from vader.cli.progress import ProgressListener

    screen = console()
    screen.print("loading ...", soft_wrap=True)
    from vader.report.cost import costs
    from vader.report.reading import read_run
    from vader.report.summary import judged
    from vader.runs import lifeline
    from vader.runs.folder import RunFolder
    from vader.runs.training import train as run_training

    lifeline.hold()

    hide_loading_bars()

    progress = ProgressListener(screen)
    try:
        result = run_training(spec, overrides, resume=resume, listeners=[progress], trust_code=trust_code)
    finally:
        progress.close()
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
    run = read_run(result.folder)
    if len(result.validations) >= 2:
        kept = [validation for validation in result.validations if validation.step == result.adapter_step]
        compare(screen, result.validations[0], (kept or result.validations)[-1])
        screen.print(f"verdict  {judged(run)[1].verdict.text}", soft_wrap=True)
    said = ", ".join(f"{name[0].lower()}{name[1:]} {value}" for name, value in costs(run))
    screen.print(f"cost     {said}", soft_wrap=True)
    folder = RunFolder(result.folder)
    screen.print(f"adapter  {folder.adapter}", soft_wrap=True)
    if folder.report.is_file():
        screen.print(f"report   {folder.report}", soft_wrap=True)
