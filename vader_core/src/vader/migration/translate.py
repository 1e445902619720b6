"""A file of another trainer as a spec, with a list of what has no counterpart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vader.errors import Problem, SpecError, cut
from vader.migration.keys import Key, NoCounterpart, Settings
from vader.migration.source import LAUNCHER, Source, read
from vader.spec import RunSpec
from vader.spec.form import form_problems
from vader.spec.reading import SpecSource


@dataclass(frozen=True)
class Translation:
    """A spec made from another trainer's settings.

    Args:
        trainer: its name.
        spec: plain data, with those fields alone that follow from the settings.
        notes: a line for each setting that has no counterpart.
    """

    trainer: str
    spec: dict[str, Any]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """The spec in YAML, with the notes as comments before it."""
        head = [f"# Translated from the settings of {self.trainer}."]
        head += [f"# Not translated: {note}" for note in self.notes]
        text = yaml.safe_dump(self.spec, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
        return "\n".join(head) + "\n" + text


def translate(path: str | Path) -> Translation:
    """Translate a launch script or a configuration.

    Raises:
        SpecError: the file is none of those known, a value is not of its kind, or the settings make no valid spec.
    """
    source = read(path)
    settings, notes = _settings(source, str(path))
    fields: dict[str, Any] = {**source.trainer.base}
    problems: list[Problem] = []
    for key in source.trainer.keys:
        try:
            fields |= key.fields(settings)
        except NoCounterpart as why:
            value = settings[key.name]
            notes.append(f"{key.name}{'' if value is None else f' = {cut(value)}'}: {why}")
            continue
        except (ValueError, TypeError) as error:
            problems.append(Problem(key.name, f"cannot be read: {error}; found {cut(settings[key.name])}."))
        if key.name in settings.given and _left_out(key, settings[key.name]):
            notes.append(f"{key.name} = {cut(settings[key.name])}: {key.meaning}")
    if problems:
        raise SpecError(problems, str(path))
    fields |= _launched(source)
    spec = _nested(fields)
    _judge(spec, str(path))
    return Translation(source.trainer.name, spec, tuple(notes))


def _left_out(key: Key, value: Any) -> bool:
    """Whether a setting that was given is lost: there is no place for it, and it is not what happens anyway."""
    return not key.place and key.convert is None and value != key.default


def _settings(source: Source, path: str) -> tuple[Settings, list[str]]:
    values: dict[str, Any] = {key.name: key.default for key in source.trainer.keys}
    notes = list(source.notes)
    given: set[str] = set()
    problems: list[Problem] = []
    for name, said in source.said.items():
        key = source.trainer.key(name)
        if key is None:
            notes.append(f"{name} = {cut(said)}: no setting of {source.trainer.name} is called that.")
            continue
        try:
            values[name] = _typed(said, key.default)
        except ValueError:
            problems.append(Problem(name, f"expected {_KINDS[type(key.default)]}; found {cut(said)}."))
        given.add(name)
    if problems:
        raise SpecError(problems, path)
    if source.launcher.get("num_processes", "").isdecimal():
        values["num_processes"] = int(source.launcher["num_processes"])
    return Settings(values, frozenset(given), source.folder), notes


_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _typed(said: Any, default: Any) -> Any:
    """A text from a command line as the kind of value that the setting has."""
    if isinstance(default, bool):
        if str(said).lower() in ("true", "yes", "t", "y", "1"):
            return True
        if str(said).lower() in ("false", "no", "f", "n", "0"):
            return False
        raise ValueError
    if isinstance(default, int | float) and not isinstance(said, bool):
        return type(default)(said)
    return said


def _launched(source: Source) -> Mapping[str, Any]:
    """What the launcher was told and the script was not."""
    found: dict[str, Any] = {}
    for name, place in LAUNCHER.items():
        value = source.launcher.get(name)
        if value is not None and name not in source.said:
            found[place] = int(value) if value.isdecimal() else value
    return found


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by dotted path as a spec, in the spec's own order."""
    spec: dict[str, Any] = {}
    for path, value in fields.items():
        *parents, last = path.split(".")
        section = spec
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return dict(_ordered(spec))


def _ordered(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, info in RunSpec.model_fields.items():
        if name in spec:
            yield name, spec[name]
        elif info.is_required():
            yield name, None


def _judge(spec: dict[str, Any], path: str) -> None:
    """
    Raises:
        SpecError: a value is out of its range in a spec.
    """
    if spec.get("prompts") is None:  # which a note says
        spec["prompts"] = {"name": "list", "options": {"prompts": ["a prompt"]}}
    try:
        RunSpec.model_validate(spec)
    except ValidationError as error:
        problems = form_problems(SpecSource(spec, path), error, RunSpec)
        raise SpecError(problems, f"the spec that {path} makes") from error
