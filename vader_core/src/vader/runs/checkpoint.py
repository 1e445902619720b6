"""Checkpoints: written whole or not at all, verified when read, enough for an exact resumption.

A checkpoint is a folder ``step-000100`` with ``adapter/`` (peft layout), ``optimizer.pt``, one ``rng-N.json`` per
process and ``manifest.json``, which holds step, spec digest, the SHA-256 of every other file and its own. What lies in
them is registered with :class:`vader.runs.stateful.Registry`; :func:`save` and :func:`restore` walk it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from vader.errors import CheckpointError, RunFolderError
from vader.runs.folder import ADAPTER, step_folder, step_folders
from vader.runs.stateful import Registry
from vader.storage import free_name, sync_folder, sync_tree
from vader.weights import sealed
from vader.weights.files import load_pickled
from vader.weights.lora import DIFFUSERS_FILE, DIFFUSERS_FILE_2, PEFT_CONFIG, PEFT_FILE

_TRAINING = "optimizer.pt"
_FILES = (DIFFUSERS_FILE, DIFFUSERS_FILE_2, PEFT_CONFIG, PEFT_FILE, sealed.MANIFEST)
_OWN = re.compile("|".join([*map(re.escape, _FILES), r"rng-\d+\.json"]))
"""Names of ours in the folders that are replaced, besides those that the new one has."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    digest: str
    processes: int
    manifest: Mapping[str, Any]

    @property
    def first_processes(self) -> int:
        """Processes of the run as it began; in versions that did not write it, a run kept their number."""
        return int(self.manifest.get("first_processes", self.processes))

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, in peft's layout."""
        return self.path / ADAPTER


def save(
    checkpoints: Path,
    step: int,
    *,
    digest: str,
    processes: int,
    first_processes: int,
    registry: Registry,
    state: Mapping[str, Any],
) -> Path:
    """Write a checkpoint under a temporary name, flush it, rename it.

    Args:
        checkpoints: the run's folder of checkpoints.
        step: optimizer steps done.
        digest: of the run spec.
        processes: of the run.
        first_processes: of the run as it began.
        registry: of what is kept.
        state: what :meth:`Registry.collect` gave the main process.

    Raises:
        CheckpointError: it could not be written; earlier ones are untouched.
    """
    placed: dict[str, dict[str, Any]] = {"folder": {}, "training": {}, "process": {}, "manifest": {}}
    for kept in registry:
        placed[kept.place][kept.name] = state[kept.name]

    def write(folder: Path) -> None:
        for name, fill in placed["folder"].items():
            (folder / name).mkdir()
            fill(folder / name)
        torch.save(placed["training"], folder / _TRAINING)
        for name, values in placed["process"].items():
            for rank, value in enumerate(values):
                (folder / _process_file(name, rank)).write_text(json.dumps(value), encoding="utf-8")
        counts = {"processes": processes, "first_processes": first_processes}
        sealed.seal(folder, {"step": step, "digest": digest, **counts, **placed["manifest"]})

    final = checkpoints / step_folder(step)
    replace_folder(final, write, f"checkpoint of step {step}")
    return final


def restore(found: Checkpoint, registry: Registry, rank: int) -> None:
    """Restore everything that is registered, in order.

    A process that the checkpoint does not know takes the method's state of one that it knows, and keeps its own chance.

    Args:
        found: a verified checkpoint.
        registry: of what is kept.
        rank: of this process.
    """
    training = _training_state(found)
    for kept in registry:
        match kept.place:
            case "folder":
                kept.restore(found.path / kept.name)
            case "process" if rank < found.processes:
                kept.restore(json.loads((found.path / _process_file(kept.name, rank)).read_text(encoding="utf-8")))
            case "training" | "manifest":
                value = (training if kept.place == "training" else found.manifest)[kept.name]
                kept.restore(value[rank % found.processes] if kept.by_process else value)


def take_average(found: Checkpoint, parameters: Sequence[nn.Parameter]) -> bool:
    """Give the parameters of an adapter the values of the moving average that a checkpoint keeps.

    Args:
        found: a verified checkpoint.
        parameters: of an adapter of the same shape, in the order of training.

    Returns:
        Whether it keeps one.

    Raises:
        CheckpointError: it is of another adapter.
    """
    training = _training_state(found)
    state = training.get("average")
    if state is None:
        return False
    average = state["average"]
    if [tensor.shape for tensor in average] != [parameter.shape for parameter in parameters]:
        raise CheckpointError(f"{found.path.name}: its moving average is of another adapter than its spec's.")
    with torch.no_grad():
        for parameter, value in zip(parameters, average, strict=True):
            parameter.copy_(value)
    return True


def _process_file(name: str, rank: int) -> str:
    return f"{name}-{rank}.json"


def replace_folder(final: Path, write: Callable[[Path], None], called: str = "the adapter") -> None:
    """Write a folder under a temporary name, flush it, and put it in the place of the one of that name.

    That takes two renames, old one away and new one in; :func:`recover` mends a death between them. Files in the old
    one that are not ours move to the new one.

    Args:
        final: the folder.
        write: fills an empty folder.
        called: what it is, for the message.

    Raises:
        CheckpointError: it could not be written.
    """
    partial, old = _beside(final, "partial"), _beside(final, "old")
    try:
        recover(final)
        partial.mkdir(parents=True)
        write(partial)
        sync_tree(partial)
        sync_folder(partial)
        if final.is_dir() and not final.is_symlink():
            final.replace(old)
        elif os.path.lexists(final):  # a link leads to files that are not ours
            final.replace(free_name(final))
        partial.replace(final)
        sync_folder(final.parent)
        if old.is_dir():
            _hand_over(old, final)
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            recover(final)
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{called} could not be written to {str(final.parent)!r}: {reason}. "
            "Earlier checkpoints are intact; make room or correct the permissions, then resume the run."
        ) from error


def recover(final: Path) -> None:
    """Mend what a death in :func:`replace_folder` or :func:`discard` has left: the old folder comes back, or goes.

    Raises:
        OSError: something cannot be moved.
    """
    partial, old = _beside(final, "partial"), _beside(final, "old")
    for name in (partial, old):
        if name.is_symlink() or name.is_file():  # nothing of ours, and it would be in the way for ever
            name.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    if old.is_dir() and not final.exists():
        old.replace(final)
    if old.is_dir():
        _hand_over(old, final)


def replaced(final: Path) -> Path:
    """Where a folder is to be read: the old one, if a death has left no new one in its place."""
    old = _beside(final, "old")
    return old if old.is_dir() and not final.exists() else final


def _beside(final: Path, kind: str) -> Path:
    return final.with_name(f".{final.name}.{kind}")


def _hand_over(old: Path, new: Path) -> None:
    """Remove an old folder, file by file of ours; what else it holds moves to the new one."""
    for entry in list(old.iterdir()):
        target = new / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if target.is_dir():
                _hand_over(entry, target)
            else:
                entry.replace(free_name(target) if target.exists() else target)
        elif _OWN.fullmatch(entry.name) or target.is_file():
            entry.unlink()
        else:
            entry.replace(free_name(target) if target.exists() else target)
    old.rmdir()


def discard(found: Path) -> bool:
    """Remove a checkpoint, unless it holds files that are not ours.

    Returns:
        Whether it is gone.

    Raises:
        CheckpointError: it cannot be removed.
    """
    try:
        own = {*sealed.read(found)["files"], sealed.MANIFEST}
        if found.is_symlink() or any(
            path.relative_to(found).as_posix() not in own for path in found.rglob("*") if not path.is_dir()
        ):
            return False
        partial = _beside(found, "partial")
        found.replace(partial)
        shutil.rmtree(partial)
    except sealed.Damaged:
        return False
    except OSError as error:
        raise CheckpointError(f"{str(found)!r} could not be removed: {error.strerror}. Remove it by hand.") from error
    return True


def verify(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and check every file against it.

    Raises:
        CheckpointError: something is missing, truncated or altered.
        RunFolderError: the system does not let it be read, which says nothing of what is in it.
    """
    try:
        manifest = sealed.read(path)
        sealed.check(path, manifest)
        step, digest, processes = (manifest[name] for name in ("step", "digest", "processes"))
        if not (isinstance(step, int) and isinstance(digest, str) and isinstance(processes, int)):
            raise sealed.Damaged(f"{sealed.MANIFEST} is none of a checkpoint")
        if step_folder(step) != path.name:
            raise CheckpointError(f"{path.name}: it is the checkpoint of step {step}, under another name.")
        return Checkpoint(path, step, digest, processes, manifest)
    except (sealed.Damaged, KeyError) as error:
        raise CheckpointError(f"{path.name}: {error}.") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def newest(checkpoints: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest sound checkpoint; damaged ones are passed over, with a notice each. None when there is none.

    Raises:
        RunFolderError: the system does not let one be read, or the folder.
    """
    try:
        paths = step_folders(checkpoints)[::-1]
    except OSError as error:
        raise _unreadable(checkpoints, error) from error
    for path in paths:
        try:
            return verify(path)
        except CheckpointError as error:
            notice(
                f"checkpoint {error} {'There is none before it' if path == paths[-1] else 'The one before it is used'}."
            )
    return None


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"{str(path)!r} cannot be read: {error.strerror or error}. Nothing was changed: correct permissions or mount "
        "the volume, then resume the run."
    )


def _training_state(found: Checkpoint) -> Any:
    """Optimizer, scaler, average and the method's own, as they were saved.

    Raises:
        WeightsError: it holds anything but data.
    """
    name = f"{found.path.name}/{_TRAINING}"
    return load_pickled(found.path / _TRAINING, name, "Resume from an earlier checkpoint.")
