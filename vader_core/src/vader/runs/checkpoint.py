"""Checkpoints: written whole or not at all, verified when read, enough for an exact resumption.

A checkpoint is a folder ``step-000100`` with ``adapter/`` (peft layout), ``optimizer.pt``, one ``rng-N.json`` per
process and ``manifest.json``, which holds step, spec digest, the SHA-256 of every other file and its own. What lies in
them is registered with :class:`vader.runs.stateful.Registry`; :func:`save` and :func:`restore` walk it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vader.errors import CheckpointError
from vader.runs.folder import ADAPTER, step_folder, step_folders
from vader.runs.stateful import Registry
from vader.storage import sync_folder, write_json

_MANIFEST = "manifest.json"
_TRAINING = "optimizer.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    digest: str
    processes: int
    manifest: Mapping[str, Any]

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, in peft's layout."""
        return self.path / ADAPTER


def save(
    checkpoints: Path, step: int, *, digest: str, processes: int, registry: Registry, state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint under a temporary name, flush it, rename it.

    Args:
        checkpoints: the run's folder of checkpoints.
        step: optimizer steps done.
        digest: of the run spec.
        processes: of the run.
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
        files = {str(file.relative_to(folder)): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        manifest = {"step": step, "digest": digest, "processes": processes, **placed["manifest"], "files": files}
        write_json(folder / _MANIFEST, {**manifest, "sha256": _sealed(manifest)})

    final = checkpoints / step_folder(step)
    replace_folder(final, write, f"checkpoint of step {step}")
    return final


def restore(found: Checkpoint, registry: Registry, rank: int) -> None:
    """Restore everything that is registered, in order.

    Args:
        found: a verified checkpoint.
        registry: of what is kept.
        rank: of this process.
    """
    training = torch.load(found.path / _TRAINING, map_location="cpu", weights_only=True)
    for kept in registry:
        match kept.place:
            case "folder":
                kept.restore(found.path / kept.name)
            case "process":
                kept.restore(json.loads((found.path / _process_file(kept.name, rank)).read_text(encoding="utf-8")))
            case "training" | "manifest":
                value = (training if kept.place == "training" else found.manifest)[kept.name]
                kept.restore(value[rank] if kept.by_process else value)


def _process_file(name: str, rank: int) -> str:
    return f"{name}-{rank}.json"


def replace_folder(final: Path, write: Callable[[Path], None], called: str = "the adapter") -> None:
    """Write a folder under a temporary name, flush it, rename it.

    Args:
        final: the folder; one of that name is replaced.
        write: fills an empty folder.
        called: what it is, for the message.

    Raises:
        CheckpointError: it could not be written.
    """
    partial = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        sync_folder(partial)
        if final.is_dir():
            shutil.rmtree(final)
        final.unlink(missing_ok=True)
        partial.replace(final)
        sync_folder(final.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{called} could not be written to {str(final.parent)!r}: {reason}. "
            "Earlier checkpoints are intact; make room or correct the permissions, then resume the run."
        ) from error


def _sealed(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's own values."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify(path: Path) -> Checkpoint:
    """Read a checkpoint's manifest and check every file against it.

    Raises:
        CheckpointError: something is missing, truncated or altered.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop("sha256") != _sealed(manifest):
            raise CheckpointError(f"{path.name}: {_MANIFEST} is damaged (its own SHA-256 differs).")
        for name, expected in manifest["files"].items():
            if _sha256(path / name) != expected:
                raise CheckpointError(f"{path.name}: {name} is damaged (its SHA-256 differs from the manifest's).")
        return Checkpoint(path, manifest["step"], manifest["digest"], manifest["processes"], manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name}: damaged or incomplete ({type(error).__name__}: {error}).") from error


def newest(checkpoints: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest sound checkpoint; damaged ones are passed over, with a notice each. None when there is none."""
    paths = step_folders(checkpoints)[::-1]
    for path in paths:
        try:
            return verify(path)
        except CheckpointError as error:
            last = path == paths[-1]
            notice(
                f"checkpoint {error} {'The run starts from the beginning' if last else 'The one before it is used'}."
            )
    return None
