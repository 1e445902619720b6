"""What a user means by a path: the folder of a run, or the file of a spec."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from vader.errors import PathError, RunFolderError, cut
from vader.paths import user_path
from vader.runs.folder import RunFolder

_OF_SPECS = {".yaml", ".yml", ".json"}


def run_folder(source: Any) -> RunFolder | None:
    """The folder of a run, if a source is one; None for a spec in any form.

    Raises:
        RunFolderError: it is a folder and not of a run; or it is not there, and its name is not that of a spec.
    """
    if not isinstance(source, str | Path):
        return None
    try:
        path = user_path(source)
    except PathError:  # which the reader of specs says
        return None
    if path.is_dir():
        folder = RunFolder(path)
        folder.require_run()
        return folder
    if path.exists() or path.suffix.lower() in _OF_SPECS:
        return None
    raise RunFolderError(
        f"there is no {cut(str(source))}: expected the folder of a run, or the YAML file of a spec.{_nearest(path)}"
    )


def _nearest(path: Path) -> str:
    """The run folder, or spec, beside a mistyped one that is most like it."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return f" There is no folder {cut(str(path.parent))} either."
    names = {one.name: one for one in beside if one.suffix in _OF_SPECS or (one.is_dir() and RunFolder(one).described)}
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(names[close[0]])!r}?" if close else ""


def to_resume(source: Any, overrides: list[str], resume: bool) -> tuple[Any, list[str]]:
    """The spec and the overrides with which training goes on in a run's own folder; others as they are.

    Args:
        source: a spec in any form, or the path of a run folder.
        overrides: of the user.
        resume: whether the run goes on.

    Raises:
        RunFolderError: the folder is not of a run; or it is, and ``resume`` is off.
    """
    if not resume and not (isinstance(source, str | Path) and _is_folder(source)):
        return source, overrides
    folder = run_folder(source)
    if folder is None:
        return source, overrides
    if not resume:
        raise RunFolderError(
            f"{cut(str(source))} is the folder of a run. Go on with it by --resume (resume=True), or give a spec."
        )
    return folder.spec, [f"output={_quoted(str(folder.path))}", *overrides]


def _is_folder(source: str | Path) -> bool:
    try:
        return user_path(source).is_dir()
    except PathError:
        return False


def _quoted(text: str) -> str:
    """A text as YAML that is that text, whatever is in it."""
    return "'" + text.replace("'", "''") + "'"
