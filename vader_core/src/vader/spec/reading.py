"""Reading a spec from YAML, a mapping or Python: raw data, and the line of everything in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vader.errors import Problem, SpecError
from vader.spec import RunSpec

Loc = tuple[int | str, ...]


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
        return Problem(".".join(map(str, loc)), message, line)

    def forget_lines(self, path: str) -> None:
        """A path whose value did not come from the file: neither it nor what is in it has a line."""
        loc = _loc(path)
        self.lines = {known: line for known, line in self.lines.items() if known[: len(loc)] != loc}
        self.elsewhere.add(loc)


def _loc(path: str) -> Loc:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


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
        source = SpecSource(_listed(dict(spec)))
    else:
        source = _read_yaml(Path(spec))
    problems = [problem for override in overrides if (problem := _override(source, override))]
    if problems:
        raise SpecError(problems, source.name)
    return source


def _listed(value: Any) -> Any:
    """The same data with lists for tuples, so that overrides can reach into them."""
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


def _read_yaml(path: Path) -> SpecSource:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read the spec file: {reason}. Expected YAML; 'vader init {path.name}' writes a first one."
        raise SpecError([Problem(str(path), message)]) from error
    lines: dict[Loc, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = list(_walk(node, (), lines)) if node is not None else []
        data = yaml.safe_load(text) if node is not None else {}
    except RecursionError as error:
        message = "a YAML alias (*name) refers to what contains it. Write the values out."
        raise SpecError([Problem("", message)], str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        message = (
            f"not valid YAML: {getattr(error, 'problem', None) or error}. Check indentation, colons and quotes there."
        )
        raise SpecError([Problem("", message, line)], str(path)) from error
    if not isinstance(data, dict):
        problems.append(Problem("", f"expected a mapping of fields such as 'backbone:', found {type(data).__name__}."))
    if problems:
        raise SpecError(problems, str(path))
    return SpecSource(data, str(path), lines)


def _walk(node: yaml.Node, loc: Loc, lines: dict[Loc, int]) -> Iterable[Problem]:
    """Record the line of every path; yield keys that stand twice, which YAML would silently drop."""
    lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            child = (*loc, str(key.value))
            if child in lines:
                yield Problem(".".join(map(str, child)), "the key stands twice; remove one.", key.start_mark.line + 1)
                continue
            lines[child] = key.start_mark.line + 1
            yield from _walk(value, child, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*loc, index), lines)


def _override(source: SpecSource, text: str) -> Problem | None:
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        return Problem(text, "an override is written path=value, for example train.steps=50.")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        return Problem(path, f"the value {raw!r} of this override is not valid YAML; quote it.")
    here: Any = source.data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                known = f"0 to {len(here) - 1}" if here else "none, the list is empty"
                return Problem(path, f"{'.'.join(keys[:depth])} is a list; expected an index ({known}), found {key!r}.")
            index: Any = int(key)
        elif isinstance(here, dict):
            index = key
        else:
            return Problem(path, f"{'.'.join(keys[:depth])} is {here!r}, which has no field {key!r}.")
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
