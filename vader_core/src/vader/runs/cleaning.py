"""What an interrupted write leaves behind in a run folder, name by name; nothing else is ever removed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vader.resolve import code_record
from vader.runs.checkpoint import recover
from vader.runs.folder import BEST, ENVIRONMENT, METRICS, REPORT, SPEC, RunFolder, step_folders
from vader.runs.validation_file import FILE as VALIDATION

_ROOT = re.compile(
    rf"\.({'|'.join(map(re.escape, (SPEC, METRICS, ENVIRONMENT, REPORT)))})(\.\d+)?\.partial|\.probe\.partial"
)
_STEP = re.compile(r"\.(step-\d{6,})\.(partial|old)")
_SAMPLE = re.compile(
    rf"\.{re.escape(VALIDATION)}(\.\d+)?\.partial|\.clip-\d{{3,}}\.partial\.mp4|\.image-\d{{3,}}\.png\.\d+\.partial"
)


def clear(folder: RunFolder) -> None:
    """Undo or finish what a death interrupted, and remove the temporary names of the run's own files.

    Raises:
        OSError: something cannot be removed.
    """
    for final in (folder.adapter, folder.path / BEST):
        recover(final)
    for name in _names(folder.checkpoints):
        if found := _STEP.fullmatch(name):
            recover(folder.checkpoints / found[1])
    for path in _temporary(folder):
        _remove(path)


def forget(folder: RunFolder) -> None:
    """Remove what a run that never made an optimizer step has noted, so that another may begin in its folder."""
    for path in (*(step / VALIDATION for step in step_folders(folder.samples)), _code(folder) / code_record.INDEX):
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()


def _temporary(folder: RunFolder) -> Iterator[Path]:
    for parent, pattern in ((folder.path, _ROOT), *((step, _SAMPLE) for step in step_folders(folder.samples))):
        yield from (parent / name for name in _names(parent) if pattern.fullmatch(name))
    code, kept = _code(folder), code_record.read(folder.path).values()
    files = {code_record.INDEX, *(entry["file"] for entry in kept if "file" in entry)}
    yield from (code / name for name in _names(code) if name in {f".{file}.partial" for file in files})


def _code(folder: RunFolder) -> Path:
    return folder.path / code_record.FOLDER


def _names(parent: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(parent))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
