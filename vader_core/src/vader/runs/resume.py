"""The way into a run, in one walk: open its folder, choose the checkpoint, take up what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from yaml import YAMLError

from vader.diffusion.seeding import derive
from vader.errors import CheckpointError, RunFolderError
from vader.runs import checkpoint
from vader.runs.checkpoint import Checkpoint
from vader.runs.engine import Engine
from vader.runs.folder import SPEC, RunFolder
from vader.runs.stateful import Registry
from vader.spec import RunSpec, differences, load_run_spec

_SPARE_BYTES = 64 * 2**20


def open_folder(folder: RunFolder, spec: RunSpec, *, resume: bool, notice: Callable[[str], None]) -> Checkpoint | None:
    """Make the folder ready for a run, before any weight is loaded. The main process alone does it.

    Args:
        folder: of the run.
        spec: the resolved spec, written to ``spec.yaml``.
        resume: go on from the newest sound checkpoint, or begin when there is none.
        notice: told of damaged checkpoints.

    Returns:
        The checkpoint to resume from.

    Raises:
        RunFolderError: it cannot be written, has no room, holds another run, or holds this one
            and ``resume`` is off.
    """
    folder.make()
    folder.require_space(_SPARE_BYTES)
    described = folder.described
    if folder.begun:
        _require_same_run(folder, spec, resume)
    folder.clear_partial()
    found = checkpoint.newest(folder.checkpoints, notice)
    if found and not described and found.digest != spec.digest():
        raise RunFolderError(f"output: {str(found.path)!r} is of another spec, and {SPEC} is gone. Use another folder.")
    folder.trim_metrics(found.step if found else 0)
    folder.write_spec(spec)
    return found


def _require_same_run(folder: RunFolder, spec: RunSpec, resume: bool) -> None:
    if not resume:
        raise RunFolderError(
            f"output: {str(folder.path)!r} already holds a run. "
            "Resume it with --resume (resume=True), or choose another folder."
        )
    changed = differences(_started_with(folder), spec) if folder.described else []
    if changed:
        listed = "".join(f"\n  {change}" for change in changed)
        raise RunFolderError(
            f"output: {str(folder.path)!r} holds a run of another spec; resuming would mix them:{listed}\n"
            "Use the spec it was started with, or another folder."
        )


def _started_with(folder: RunFolder) -> RunSpec:
    try:
        return load_run_spec(folder.path)
    except (ValueError, YAMLError) as error:
        raise RunFolderError(f"output: {str(folder.spec)!r} has been changed and is no spec now: {error}") from error


def take_up(found: Checkpoint | None, registry: Registry, spec: RunSpec, engine: Engine) -> int:
    """Restore what a checkpoint keeps, in every process; without one, seed what is random.

    Args:
        found: the checkpoint, None to begin.
        registry: of what is kept.
        spec: of the run.
        engine: of the run.

    Returns:
        Optimizer steps done.

    Raises:
        CheckpointError: it was written by another number of processes, or for another spec.
    """
    if found is None:
        torch.manual_seed(derive(spec.train.seed, "global", engine.process_index))
        return 0
    if found.processes != engine.num_processes:
        raise CheckpointError(
            f"{found.path.name} was written by {found.processes} processes; this run has "
            f"{engine.num_processes}. Resume with --processes {found.processes}."
        )
    if found.digest != spec.digest():
        raise CheckpointError(
            f"{found.path.name} was written for another spec than this folder's. "
            "Remove it, or resume in the folder it comes from."
        )
    checkpoint.restore(found, registry, engine.process_index)
    return found.step
