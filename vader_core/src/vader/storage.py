"""Writing files so that a crash at any moment leaves the old one or the new one, never a half."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name in the same folder, flush to disk, rename."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """See :func:`write_text`."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            sync(file)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_with(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write bytes under a temporary name of this process in the same folder, rename. Several processes may do it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


CACHE = "VADER_CACHE_HOME"
"""Environment variable: where what can be made again is kept; empty keeps nothing."""


def cache_home() -> Path | None:
    """The user's folder for what can be made again; None when there is none."""
    said = os.environ.get(CACHE)
    if said is not None:
        return Path(said) if said else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vader"
    except RuntimeError:  # a user without a home
        return None


def sync(file: IO[Any]) -> None:
    """Flush what was written to a file to disk."""
    file.flush()
    os.fsync(file.fileno())


def write_json(path: Path, data: Any) -> None:
    """Write as JSON, like :func:`write_text`. Values that are not JSON are an error."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def free_name(path: Path) -> Path:
    """A name that is not taken, for what is in the way of a file or folder of that name."""
    names = (path.with_name(f"{path.name}.aside{number or ''}") for number in range(10**6))
    return next(name for name in names if not os.path.lexists(name))


def sync_tree(folder: Path) -> None:
    """Flush every file in a folder to disk, at any depth, and its entries."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system knows how."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
