"""Reading a spec from YAML, a mapping or Python: raw data, and the line of everything in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vader.errors import PathError, Problem, SpecError, cut
from vader.paths import read_limited, user_path
from vader.spec import RunSpec
from vader.spec.yaml_text import DEPTH, NODES, NotYamlError, compose, load

Loc = tuple[int | str, ...]
_BYTES = 4 * 2**20
"""Most bytes of a spec."""


@dataclass
class SpecSource:
    """Raw spec data with what is needed to point at a mistake: the file's name and the line of every path."""

    data: dict[str, Any]
    name: str | None = None
    lines: dict[Loc, int] = field(default_factory=dict)
    elsewhere: set[Loc] = field(default_factory=set)
    """Paths that overrides have set."""

    def problem(self, path: Loc | str, message: str) -> Problem:
        """A mistake at a path, with the line of that path or of its nearest parent."""
        loc = _loc(path) if isinstance(path, str) else path
        parents = [loc[:n] for n in range(len(loc), 0, -1)]
        overridden = any(parent in self.elsewhere for parent in parents)
        line = None if overridden else next((self.lines[parent] for parent in parents if parent in self.lines), None)
        return Problem(cut(".".join(map(str, loc)), plain=True), message, line)

    def forget_lines(self, path: str) -> None:
        """A path whose value did not come from the file: neither it nor what is in it has a line."""
        loc = _loc(path)
        self.lines = {known: line for known, line in self.lines.items() if known[: len(loc)] != loc}
        self.elsewhere.add(loc)


def _loc(path: str) -> Loc:
    return tuple(int(part) if _is_index(part) else part for part in path.split("."))


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10


def read_source(spec: RunSpec | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> SpecSource:
    """Raw data from a path to YAML, a mapping or a :class:`RunSpec`, with dotted overrides applied.

    Args:
        spec: where the spec comes from. A string is a path.
        overrides: ``path=value`` each; the value is read as YAML.

    Raises:
        SpecError: for a file that is missing or is not YAML, or an override that is not ``path=value``.
    """
    if isinstance(spec, RunSpec):
        source = SpecSource(spec.model_dump(mode="json", exclude_unset=True))
    elif isinstance(spec, Mapping):
        source = SpecSource(_plain(spec))
    elif isinstance(spec, str | Path):
        source = _read_yaml(spec)
    else:
        message = f"expected the path of a YAML file, a mapping or a RunSpec; found {cut(spec)}."
        raise SpecError([Problem("", message)])
    if isinstance(overrides, str):
        message = f"found the text {cut(overrides)}; expected a list such as ['train.steps=50']."
        raise SpecError([Problem("overrides", message)], source.name)
    problems = [problem for override in overrides if (problem := _override(source, override))]
    if problems:
        raise SpecError(problems, source.name)
    return source


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a mapping, copied, with lists for tuples, so that overrides can reach into it.

    Raises:
        SpecError: it is too large or too deep, or contains itself.
    """
    left = NODES

    def copied(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > DEPTH or left < 0:
            limits = f"more than {NODES:,} values, or more than {DEPTH} levels, or contains itself"
            raise SpecError([Problem("", f"the mapping holds {limits}. Put long lists into files.")])
        if isinstance(value, Mapping):
            return {key: copied(inner, depth + 1) for key, inner in value.items()}
        return [copied(inner, depth + 1) for inner in value] if isinstance(value, list | tuple) else value

    data: dict[str, Any] = copied(spec, 0)
    return data


def _read_yaml(said: str | Path) -> SpecSource:
    name = cut(str(said), plain=True)
    short = cut(Path(name).name, plain=True)
    try:
        path = user_path(said)
        text = read_limited(path, _BYTES)
    except (PathError, OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        message = f"cannot read the spec file: {reason}. Expected YAML; 'vader init {short}' writes a first one."
        raise SpecError([Problem(name, message)]) from error
    lines: dict[Loc, int] = {}
    try:
        node, data = compose(text)
    except NotYamlError as error:
        message = f"not valid YAML: {error}. Check indentation, colons and quotes there."
        raise SpecError([Problem("", message, error.line)], name) from error
    problems = list(_walk(node, (), lines)) if node is not None else []
    data = {} if node is None else data
    if not isinstance(data, dict):
        problems.append(Problem("", f"expected a mapping of fields such as 'backbone:', found {type(data).__name__}."))
    if problems:
        raise SpecError(shortened(problems), name)
    return SpecSource(data, str(path), lines)


_SHOWN = 20


def shortened(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems, and how many more there are."""
    if len(problems) <= _SHOWN:
        return list(problems)
    return [*problems[:_SHOWN], Problem("", f"and {len(problems) - _SHOWN} more of the kind; correct these first.")]


def _walk(node: yaml.Node, loc: Loc, lines: dict[Loc, int]) -> Iterable[Problem]:
    """Record the line of every path; yield keys that stand twice, which YAML would silently drop."""
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            child = (*loc, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
            if child in lines:
                where = cut(".".join(map(str, child)), plain=True)
                yield Problem(where, "the key stands twice; remove one.", key.start_mark.line + 1)
                continue
            lines[child] = key.start_mark.line + 1
            yield from _walk(value, child, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*loc, index), lines)


def _override(source: SpecSource, text: str) -> Problem | None:
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    shown = cut(path, plain=True)
    if not equals or not all(keys) or len(keys) > DEPTH:
        return Problem(cut(text, plain=True), "an override is written path=value, for example train.steps=50.")
    try:
        value = load(raw)
    except NotYamlError as error:
        return Problem(shown, f"the value {cut(raw)} of this override is not valid YAML: {error}. Or quote it.")
    here: Any = source.data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not _is_index(key) or int(key) >= len(here):
                known = f"0 to {len(here) - 1}" if here else "none, the list is empty"
                where = ".".join(keys[:depth])
                return Problem(shown, f"{where} is a list; expected an index ({known}), found {cut(key)}.")
            index: Any = int(key)
        elif isinstance(here, dict):
            index = key
        else:
            return Problem(shown, f"{'.'.join(keys[:depth])} is {cut(here)}, which has no field {cut(key)}.")
        if last:
            here[index] = value
            source.forget_lines(path.strip())
        else:
            child = here.get(index) if isinstance(here, dict) else here[index]
            if isinstance(child, str):
                child = {"name": child}
            here[index] = {} if child is None else child
            here = here[index]
    return None
