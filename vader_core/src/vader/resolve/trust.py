"""Whether a spec may name code that runs: files of Python and interpreters, which a stranger's spec may name too.

A spec that is an object in Python is its caller's. A spec in a file may run what lies in its own folder, and the spec
of a run folder what it ran before, if file and folder are this user's. Everything else has to be asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vader.errors import PathError, cut
from vader.paths import user_path
from vader.plugins.registry import unpackaged
from vader.spec.reading import Loc, SpecSource

_RUN = ("metrics.jsonl", "checkpoints", "adapter")
"""What lies beside a spec that is a run's."""


class Trust:
    """Judges what a spec would run.

    Args:
        source: the spec.
        given: the user has said that all of its code may run.
    """

    def __init__(self, source: SpecSource, *, given: bool) -> None:
        self._source = source
        self._all = given or source.name is None
        spec = Path(source.name or "").absolute()
        self._folder, self._spec = spec.parent, spec
        self._is_run = any((spec.parent / name).exists() for name in _RUN) and not self._all

    def objection(self, loc: Loc, name: str, isolate: Any) -> tuple[Loc, str] | None:
        """Why a component may not run, with the place that says so; None if it may.

        Args:
            loc: of the component.
            name: of the component.
            isolate: what the spec says of its process, if it has one of its own.
        """
        file = unpackaged(name)
        if file is not None and (why := self._why((*loc, "name"), file[0])):
            return (*loc, "name"), why
        python = isolate.get("python") if isinstance(isolate, Mapping) else None
        if (
            isinstance(python, str)
            and "/" in python
            and (why := self._why((*loc, "isolate", "python"), python, interpreter=True))
        ):
            return (*loc, "isolate", "python"), why
        return None

    def _why(self, loc: Loc, said: str | Path, *, interpreter: bool = False) -> str | None:
        if self._all or any(loc[:n] in self._source.elsewhere for n in range(1, len(loc) + 1)):
            return None
        try:
            path = user_path(said).absolute()
            path = _interpreter(path) if interpreter else path.resolve()
        except (PathError, OSError, RuntimeError):
            return None  # it will be refused for that
        stranger = next((one for one in (self._spec, self._folder) if not _own(one)), None)
        if stranger is not None:
            reason = f"and {cut(str(stranger))} is another user's"
        elif self._is_run or path.is_relative_to(self._folder.resolve()) or path.is_relative_to(self._folder):
            return None
        else:
            reason = f"which lies outside the folder of the spec, {cut(str(self._folder))}"
        fix = "Read it; if it may run, say so with --trust-code (in Python trust_code=True)."
        return f"it would run {cut(str(path))}, {reason}. {fix}"


def _interpreter(path: Path) -> Path:
    """Where an interpreter lies, links followed; that of a virtual environment is a link out of it, and lies in it."""
    inside = path.parent.resolve() / path.name
    return inside if (inside.parent.parent / "pyvenv.cfg").is_file() else inside.resolve()


def _own(path: Path) -> bool:
    """Whether a file or folder is this user's or the system's."""
    if not hasattr(os, "getuid"):
        return True
    try:
        return path.stat().st_uid in (os.getuid(), 0)
    except OSError:
        return True
