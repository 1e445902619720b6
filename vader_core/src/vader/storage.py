"""Writing files so that a crash at any moment leaves the old one or the new one, never a half."""

from __future__ import annotations

import errno
import json
import os
import stat
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
        temporary.unlink(missing_ok=True)  # of an earlier death; and a link there leads to a file that is not ours
        with temporary.open("xb") as file:
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
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def require_plain(path: Path) -> None:
    """Check that a path is a file, or a link to one: a pipe or a device might never end.

    Raises:
        FileNotFoundError: it is not there, or something else.
        OSError: the system does not let it be seen.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise FileNotFoundError(errno.ENOENT, "it is no file", str(path))


def read_plain(path: Path, errors: str = "strict") -> str:
    """The UTF-8 text of a file that may be anybody's.

    Args:
        path: of the file.
        errors: what to do with bytes that are no UTF-8, as ``open`` takes it.

    Raises:
        FileNotFoundError: see :func:`require_plain`.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no UTF-8, and ``errors`` is strict.
    """
    require_plain(path)
    return path.read_text(encoding="utf-8", errors=errors)


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
