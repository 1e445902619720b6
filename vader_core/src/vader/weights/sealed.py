"""Folders whose files are known by their SHA-256: ``manifest.json`` names them, and knows its own.

What is wrong with the bytes is a :class:`Damaged`; what the system says of a file that it cannot read stays an
:class:`OSError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vader.errors import WeightsError
from vader.storage import read_plain, require_plain, write_json

MANIFEST = "manifest.json"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class Damaged(ValueError):
    """A folder is not what its manifest says, or has none that can be trusted."""


def seal(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the manifest of a folder that is complete.

    Args:
        folder: its files, at any depth, are taken up.
        values: what the manifest says besides.
    """
    files = {file.relative_to(folder).as_posix(): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    manifest = {**values, "files": files}
    write_json(folder / MANIFEST, {**manifest, "sha256": _own(manifest)})


def read(folder: Path) -> dict[str, Any]:
    """A folder's manifest without its own digest, which is checked; its files lie in the folder.

    Raises:
        Damaged: there is none, or it has been altered.
        OSError: it cannot be read.
    """
    try:
        manifest = json.loads(read_plain(folder / MANIFEST))
        if manifest.pop("sha256") != _own(manifest):
            raise Damaged(f"{MANIFEST} is damaged (its own SHA-256 differs)")
        if not isinstance(manifest["files"], dict):
            raise Damaged(f"{MANIFEST} names no files")
        if outside := [name for name in manifest["files"] if not _inside(name)]:
            raise Damaged(f"{MANIFEST} names {outside[0]!r}, which is no file in the folder")
    except Damaged:
        raise
    except (*_ABSENT, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"damaged or incomplete ({type(error).__name__}: {error})") from error
    return dict(manifest)


def check(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file that a manifest names.

    Raises:
        Damaged: one is missing or altered.
        OSError: one cannot be read.
    """
    for name, expected in manifest["files"].items():
        try:
            found = sha256(folder / name)
        except _ABSENT as error:
            raise Damaged(f"{name} is missing ({error})") from error
        if found != expected:
            raise Damaged(f"{name} is damaged (its SHA-256 differs from the manifest's)")


def check_file(file: Path) -> None:
    """Compare a file with the manifest beside it, or with that of the folder above; without one nothing is compared.

    Raises:
        WeightsError: it is not what was written.
    """
    for folder in (file.parent, file.parent.parent):
        try:
            expected = read(folder)["files"].get(file.relative_to(folder).as_posix())
        except (OSError, Damaged, KeyError, AttributeError):  # none, or another program's
            continue
        if expected is not None and file.is_file() and sha256(file) != expected:
            raise WeightsError(
                f"{str(file)!r} is damaged: its SHA-256 is not the one in {str(folder / MANIFEST)!r}. "
                "Copy it again, or end its run again with --resume, which writes its adapter anew. If you changed it "
                f"yourself, remove {MANIFEST}."
            )


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        FileNotFoundError: it is something else than a file, such as a pipe, which might never end.
        OSError: it cannot be read.
    """
    require_plain(file)
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _inside(name: str) -> bool:
    """Whether a path leads from a folder to something in it."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _own(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's own values."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
