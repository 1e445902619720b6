"""Paths that users write, made into paths of the system in one place; and texts read within a limit."""

from __future__ import annotations

import os
from pathlib import Path

from vader.errors import PathError, cut

_PART, _WHOLE = 255, 4096
"""Bytes of a name and of a path that common file systems take."""


def user_path(said: str | Path) -> Path:
    """The path that a user means; ``~`` and ``~user`` become home folders.

    Args:
        said: a path as written in a spec, on the command line or in Python.

    Returns:
        A path whose existence can be asked for without an error.

    Raises:
        PathError: it is empty, has a null character or one that is no text, a name that is too long, or a home folder
            that is not known.
    """
    text = os.fspath(said)
    if not text:
        raise PathError("the path is empty; expected the name of a file or folder.")
    if "\0" in text:
        raise PathError(f"the path {cut(text)} has a null character in it. Remove it.")
    try:
        path = Path(text).expanduser()
        encoded = os.fsencode(path)
    except RuntimeError as error:
        user = text.split("/")[0]
        whose = "this user" if user == "~" else f"a user {cut(user.removeprefix('~'))}"
        raise PathError(
            f"the path {cut(text)} begins with {cut(user)}, and no home folder of {whose} is known. Write the path out."
        ) from error
    except UnicodeError as error:
        raise PathError(f"the path {cut(text)} has a character that is no text. Write it anew.") from error
    long = next((part for part in path.parts if len(os.fsencode(part)) > _PART), None)
    if long is not None or len(encoded) > _WHOLE:
        what = f"a name of {len(os.fsencode(long))} bytes" if long is not None else f"{len(encoded)} bytes"
        most = _PART if long is not None else _WHOLE
        raise PathError(f"the path {cut(text)} has {what}; expected at most {most}.")
    return path


def read_limited(path: Path, most: int) -> str:
    """The UTF-8 text of a file.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, or is larger.
        UnicodeDecodeError: it is no UTF-8.
    """
    with path.open("rb") as file:
        held = file.read(most + 1)
    if len(held) > most:
        raise OSError(27, f"it is larger than {most / 2**20:g} MiB")
    return held.decode("utf-8-sig")
