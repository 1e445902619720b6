"""Checkpoints: written whole or not at all, verified when read, enough for an exact resumption.

A checkpoint is a folder ``step-000100`` with ``adapter/`` (peft layout), ``optimizer.pt``, one ``rng-N.json`` per
process and ``manifest.json``, which holds step, spec digest, the SHA-256 of every other file and its own.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from vader.errors import CheckpointError
from vader.storage import sync_folder, write_json

_MANIFEST = "manifest.json"
_ADAPTER = "adapter"
_OPTIMIZER = "optimizer.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    digest: str
    processes: int
    counters: Mapping[str, int]

    @property
    def adapter(self) -> Path:
        """Folder of the adapter, in peft's layout."""
        return self.path / _ADAPTER

    def training_state(self) -> Any:
        """Optimizer, schedule and scaler state, read with ``weights_only=True``."""
        return torch.load(self.path / _OPTIMIZER, map_location="cpu", weights_only=True)

    def rng_state(self, rank: int) -> dict[str, Any]:
        """Random state of a process."""
        state: dict[str, Any] = json.loads((self.path / f"rng-{rank}.json").read_text(encoding="utf-8"))
        return state


def folder_name(step: int) -> str:
    """``step-000100``."""
    return f"step-{step:06d}"


def save(
    checkpoints: Path,
    step: int,
    *,
    digest: str,
    write_adapter: Callable[[Path], None],
    training: Mapping[str, Any],
    rng: list[dict[str, Any]],
    counters: Mapping[str, int],
) -> Path:
    """Write a checkpoint under a temporary name, flush it, rename it.

    Args:
        checkpoints: the run's folder of checkpoints.
        step: optimizer steps done.
        digest: of the run spec.
        write_adapter: writes the adapter into an empty folder.
        training: state of optimizer, schedule and scaler.
        rng: random state of every process, by rank.
        counters: further whole numbers to keep.

    Raises:
        CheckpointError: it could not be written; earlier ones are untouched.
    """

    def write(folder: Path) -> None:
        (folder / _ADAPTER).mkdir()
        write_adapter(folder / _ADAPTER)
        torch.save(dict(training), folder / _OPTIMIZER)
        for rank, state in enumerate(rng):
            (folder / f"rng-{rank}.json").write_text(json.dumps(state), encoding="utf-8")
        files = {str(file.relative_to(folder)): _sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
        manifest = {"step": step, "digest": digest, "processes": len(rng), "counters": dict(counters), "files": files}
        write_json(folder / _MANIFEST, {**manifest, "sha256": _sealed(manifest)})

    final = checkpoints / folder_name(step)
    replace_folder(final, write, f"checkpoint of step {step}")
    return final


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
        return Checkpoint(path, manifest["step"], manifest["digest"], manifest["processes"], manifest["counters"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name}: damaged or incomplete ({type(error).__name__}: {error}).") from error


def newest(checkpoints: Path, notice: Callable[[str], None]) -> Checkpoint | None:
    """The newest sound checkpoint; damaged ones are passed over, with a notice each. None when there is none."""
    paths = sorted(checkpoints.glob("step-*"), reverse=True)
    for path in paths:
        try:
            return verify(path)
        except CheckpointError as error:
            last = path == paths[-1]
            notice(
                f"checkpoint {error} {'The run starts from the beginning' if last else 'The one before it is used'}."
            )
    return None


def clear_partial(folder: Path) -> None:
    """Remove what an interrupted write left behind, at any depth of a run folder."""
    for left in [*folder.glob(".*.partial*"), *folder.glob("*/.*.partial*"), *folder.glob("*/*/.*.partial*")]:
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def rng_state() -> dict[str, Any]:
    """This process's random state, as JSON: Python, NumPy, torch on CPU and on every CUDA device."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": _listed(random.getstate()),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Set this process's random state to a saved one."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.tensor(one, dtype=torch.uint8) for one in state["cuda"]])


def _listed(value: Any) -> Any:
    return [_listed(inner) for inner in value] if isinstance(value, tuple) else value
