"""The folder that is shared: adapter, model card, spec and clips."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from vader.errors import Problem, RunFolderError, SpecError, cut
from vader.report.clips import TYPES
from vader.report.comparison import compare
from vader.report.reading import RunData, read_run
from vader.runs.folder import RunFolder, own_file
from vader.runs.joining import grid
from vader.runs.session import newest_adapter
from vader.sharing.card import model_card
from vader.weights.lora import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE
from vader.weights.lora.names import DIFFUSERS_FILE_2

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHARED = (PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE, DIFFUSERS_FILE_2)
"""Files of an adapter."""
_ROWS = 6
"""Clips in the picture of the card."""


def require_name(name: str) -> None:
    """Check the name of a repository.

    Raises:
        SpecError: it is not ``owner/name``.
    """
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise SpecError([Problem("name", f"expected owner/name; found {cut(name)}.")], "the command")


def write_folder(run: Path, name: str, target: Path, licence: str | None = None) -> Path:
    """Write what is shared of a run.

    Args:
        run: the run folder.
        name: ``owner/name`` of the repository, for the card.
        target: a folder that is new or empty.
        licence: identifier of the adapter's licence, such as ``apache-2.0``; None where none is named.

    Returns:
        The folder.

    Raises:
        RunFolderError: ``run`` is not a run's folder, its spec is none of this version, or ``target`` holds something.
        WeightsError: the run holds no adapter.
        SpecError: the name is not ``owner/name``, or the licence no identifier.
    """
    require_name(name)
    if licence is not None and not _LICENCE.fullmatch(licence):
        message = f"expected the hub's name of a licence, such as apache-2.0; found {cut(licence)}."
        raise SpecError([Problem("--licence", message)], "the command")
    RunFolder(run).require_run()
    data = read_run(run)
    if data.spec is None:
        raise RunFolderError(f"the spec of {str(run)!r} is none that this version of vader understands.")
    adapter = newest_adapter(RunFolder(run))
    for file in _SHARED:
        if (adapter / file).exists() and not own_file(run, adapter / file):
            raise RunFolderError(
                f"{str(adapter / file)!r} is a link out of the run's folder, or no file. What it leads to is not "
                "shared: put the file itself there."
            )
    _require_empty(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in _SHARED:
            if (adapter / file).exists():
                shutil.copyfile(adapter / file, target / file)
        spec = public(data.spec.model_dump(mode="json"))
        spec["output"] = f"runs/{name.split('/')[1]}"
        (target / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), encoding="utf-8")
        prompts = _write_clips(data, target / "clips.gif")
        card = model_card(data, data.spec, name, licence, prompts, (target / DIFFUSERS_FILE).is_file())
        (target / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(f"cannot write {str(target)!r}: {error.strerror}.") from error
    return target


def _require_empty(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunFolderError(f"{str(target)!r} is there and not empty. Choose a new folder.")


def public(value: Any) -> Any:
    """A spec's data without the paths of a machine: of each absolute path, its last part."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [public(inner) for inner in value]
    local = isinstance(value, str) and re.match(r"(/|~|[A-Za-z]:\\)", value)
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if local else value


def _write_clips(run: RunData, path: Path) -> list[str]:
    """The first clips before and after, as one picture that moves; their prompts, none where there are no pairs."""
    comparison = compare(run)
    pairs = comparison.pairs if comparison and comparison.after else ()
    rows: list[list[Path]] = []
    prompts: list[str] = []
    for before, after in pairs:
        assert comparison is not None
        assert comparison.after is not None
        files = [
            run.clip_path(comparison.before.step, before.file or ""),
            run.clip_path(comparison.after.step, after.file or ""),
        ]
        found = [file for file in files if file is not None and TYPES.get(file.suffix.lower()) == "video/mp4"]
        if len(found) == 2 and len(rows) < _ROWS:
            rows.append(found)
            prompts.append(after.prompt)
    if rows:
        path.write_bytes(grid(rows, ".gif"))
    return prompts
