"""What a run keeps of the code it was made with: the source of unpackaged components, and who offered the others.

A run folder holds ``code/`` with the source text of every file named in its spec (``./my_reward.py:Brightness``) and of
every object passed from Python, and ``code/index.json``, which says what is what::

    {"reward ./my_reward.py:Brightness": {"file": "my_reward.py", "sha256": "..."},
     "reward aesthetic": {"distribution": "vader-plugin-rewards", "version": "0.1.0"}}
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vader.errors import RegistryError
from vader.installing import FOLDERS, install_command
from vader.paths import user_path
from vader.plugins import registry
from vader.spec import RunSpec
from vader.storage import read_plain, write_json, write_text

FOLDER, INDEX = "code", "index.json"


def record(folder: Path, spec: RunSpec, passed: Mapping[str, Any]) -> list[str]:
    """Record the code of a run in its folder.

    Args:
        folder: of the run.
        spec: names the components.
        passed: reward objects, classes and functions passed from Python, by name.

    Returns:
        Notices: code that has changed since the run began, and code whose source cannot be had.
    """
    code = folder / FOLDER
    known = read(folder)
    notices: list[str] = []
    index: dict[str, Any] = {}
    for title, source, name in [*_named(spec, index), *_passed(passed)]:
        if source is None:
            notices.append(f"the source of {title} cannot be read, so the run folder does not hold it.")
            continue
        digest = hashlib.sha256(source.encode()).hexdigest()
        before = known.get(title)
        if before is not None and before.get("sha256") == digest:
            index[title] = before
            continue
        if before is not None and "sha256" in before:
            notices.append(f"the code of {title} is not that with which the run began, {FOLDER}/{before['file']}.")
        code.mkdir(exist_ok=True)
        file = _free(code, name, source)
        write_text(code / file, source)
        index[title] = {"file": file, "sha256": digest}
    if index:
        code.mkdir(exist_ok=True)
        write_json(code / INDEX, index)
    return notices


def read(folder: Path) -> dict[str, dict[str, str]]:
    """The index of a run folder, without entries that are none; empty when it has no index that can be read."""
    try:
        found = json.loads(read_plain(folder / FOLDER / INDEX))
    except (OSError, ValueError, RecursionError):
        return {}
    return {title: entry for title, entry in found.items() if _sound(entry)} if isinstance(found, dict) else {}


def _sound(entry: object) -> bool:
    """Whether an entry says what one says: which file and its digest, or which distribution and version."""
    return isinstance(entry, dict) and any(
        all(isinstance(entry.get(key), str) for key in keys)
        for keys in (("file", "sha256"), ("distribution", "version"))
    )


def remembered(folder: Path, kind: str, name: str) -> str:
    """What a run folder knows of a component that cannot be found: a sentence for the error, or nothing."""
    entry = read(folder).get(f"{kind} {name}")
    if entry is None:
        return ""
    if "file" in entry:
        return f" The run in {str(folder)!r} keeps its source: {folder / FOLDER / entry['file']}."
    offers, version = str(entry.get("distribution")), entry.get("version")
    wanted = install_command(offers if offers in FOLDERS else f"{offers}=={version}")
    return f" The run in {str(folder)!r} was made with {offers} {version}: run `{wanted}`."


def _components(spec: RunSpec) -> Iterator[tuple[str, str]]:
    """Kind and name of every component that a spec names, but for those in other processes."""
    yield "backbone", spec.backbone.name
    if spec.sampler.name is not None:
        yield "sampler", spec.sampler.name
    yield "method", spec.method.name
    yield "prompts", spec.prompts.name
    if spec.validation.prompts is not None:
        yield "prompts", spec.validation.prompts.name
    for reward in (*spec.rewards, *spec.validation.rewards):
        if reward.isolate is None or registry.unpackaged(reward.name):
            yield "reward", reward.name


def _named(spec: RunSpec, index: dict[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """Title, source and file name of unpackaged components; the others go to the index at once."""
    for kind, name in dict.fromkeys(_components(spec)):
        file = registry.unpackaged(name)
        if file is not None:
            yield f"{kind} {name}", _text(user_path(file[0])), file[0].name
            continue
        try:
            entry = registry.find(kind, name)
        except RegistryError:
            continue
        if not entry.built_in:
            index[f"{kind} {name}"] = {"distribution": entry.distribution, "version": entry.version}


def _passed(passed: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """The same of objects passed from Python: the file that defines them or, without one, their own lines."""
    for name, component in passed.items():
        definition = component if isinstance(component, type) or inspect.isroutine(component) else type(component)
        try:
            file = inspect.getsourcefile(definition)
            text = _text(Path(file)) if file else None
            yield f"reward {name}", text or inspect.getsource(definition), Path(file or f"{name}.py").name
        except (OSError, TypeError):
            yield f"reward {name}", None, ""


def _text(path: Path) -> str | None:
    try:
        return read_plain(path)
    except (OSError, UnicodeDecodeError):
        return None


def _free(folder: Path, name: str, source: str) -> str:
    """A file name that is not taken by another text."""
    path, number = Path(name), 1
    candidate = name
    while _text(folder / candidate) not in (None, source):
        number += 1
        candidate = f"{path.stem}-{number}{path.suffix}"
    return candidate
