"""Reading a spec from YAML, a mapping or Python, and saying everything that is wrong with its form.

Mistakes are collected as :class:`vader.errors.Problem`, never raised one by one.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

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
        source = SpecSource(spec.model_dump(mode="json"))
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


def form_problems(source: SpecSource, error: ValidationError, model: type[BaseModel], base: Loc = ()) -> list[Problem]:
    """Pydantic's findings in our words: the value seen, what was expected, the nearest name."""
    return [source.problem(base + _clean(item["loc"]), _say(item, model)) for item in error.errors()]


_TAG = re.compile(r"(function-\w+|constrained-\w+|tagged-union|lax-or-strict|literal|list|tuple|dict|set|union)\[.*\]")


def _clean(loc: Loc) -> Loc:
    """Drop the tags that pydantic adds for functions and unions; a field that a user misspelt is none."""
    return tuple(part for part in loc if not (isinstance(part, str) and _TAG.fullmatch(part)))


def _say(item: Any, model: type[BaseModel]) -> str:
    kind, value, name = item["type"], item["input"], item["loc"][-1] if item["loc"] else ""
    if kind == "extra_forbidden":
        owner = _model_at(model, _clean(item["loc"])[:-1])
        return unknown_field(str(name), list(owner.model_fields) if owner else [])
    if kind == "missing":
        owner = _model_at(model, _clean(item["loc"])[:-1])
        info = owner.model_fields.get(str(name)) if owner else None
        about = f" ({info.description.rstrip('.')})" if info is not None and info.description else ""
        return f"missing. Add it{about}."
    if kind in _SHAPES:
        return f"expected {_SHAPES[kind]}; found {value!r}."
    expected = str(item["msg"]).replace("Input should be ", "expected ").removeprefix("Value error, ")
    return f"{expected}; found {value!r}."


_SHAPES = {
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""Pydantic's kind of mistake -> the shape that was expected, in words of YAML."""


def unknown_field(name: str, known: Sequence[str]) -> str:
    """The message for a field that does not exist."""
    if not known:
        return f"unknown field {name!r}; this takes no fields. Remove it."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown field {name!r}.{hint} Known: {', '.join(known)}."


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        if here is None or part not in here.model_fields:
            return None
        here = next(_models(here.model_fields[part].annotation), None)
    return here


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list) or hasattr(annotation, "__metadata__"):
        for inner in get_args(annotation):
            yield from _models(inner)


def impossible(spec: RunSpec, source: SpecSource) -> list[Problem]:
    """States that no component could serve: refused when the spec loads, before anything is imported."""
    found = [*_gradient(spec, source), *_early_stop(spec, source)]

    def add(path: str, message: str) -> None:
        found.append(source.problem(path, message))

    if spec.frames.mode == "index" and spec.frames.index is None:
        add("frames.index", "mode index needs index, the frame to decode.")
    if spec.frames.mode != "index" and spec.frames.index is not None:
        add("frames.index", f"index means nothing to mode {spec.frames.mode}. Use mode: index, or remove it.")
    if spec.train.warmup_steps >= spec.train.steps and spec.train.warmup_steps > 0:
        add("train.warmup_steps", f"{spec.train.warmup_steps} is not less than train.steps = {spec.train.steps}.")
    found += _duplicate_labels(spec, source)
    return found


def _gradient(spec: RunSpec, source: SpecSource) -> list[Problem]:
    """Fields of ``gradient`` that do not go together, or not with the number of denoising steps."""
    found: list[Problem] = []
    gradient, steps = spec.gradient, spec.sampler.steps

    def add(path: str, message: str) -> None:
        found.append(source.problem(path, message))

    if gradient.mode in ("tail", "uniform", "subset") and gradient.k is None:
        add("gradient.k", f"mode {gradient.mode} needs k, the number of steps with gradient. Add k: 1 or more.")
    if gradient.mode in ("last", "specific") and gradient.k is not None:
        add("gradient.k", f"k = {gradient.k} means nothing to mode {gradient.mode}. Use mode: tail, or remove k.")
    if gradient.k is not None and gradient.k > steps:
        add("gradient.k", f"k = {gradient.k} is more than sampler.steps = {steps}. Expected 1 to {steps}.")
    if gradient.mode == "specific" and gradient.from_step is None:
        add("gradient.from_step", f"mode specific needs from_step, expected 0 to {steps - 1}.")
    if gradient.mode != "specific" and gradient.from_step is not None:
        add("gradient.from_step", f"from_step means nothing to mode {gradient.mode}. Use mode: specific, or remove it.")
    if gradient.from_step is not None and gradient.from_step >= steps:
        add(
            "gradient.from_step",
            f"{gradient.from_step} is past the last step. Expected 0 to {steps - 1} (sampler.steps = {steps}).",
        )
    if gradient.original and gradient.mode in ("uniform", "subset"):
        add("gradient.original", f"mode {gradient.mode} has steps after its first. Use mode: rand, or original: false.")
    for name in ("original", "stop_gradient"):
        if gradient.renoise is not None and getattr(gradient, name):
            add(f"gradient.{name}", "renoise already decodes one predicted step. Remove one of the two.")
    if gradient.renoise is not None and gradient.mode != "last":
        add("gradient.renoise", f"it re-noises the last step; mode {gradient.mode} is another. Use mode: last.")
    return found


def _early_stop(spec: RunSpec, source: SpecSource) -> list[Problem]:
    """What ``train.early_stop`` needs: a score that validations have, and validations to look at."""
    stop = spec.train.early_stop
    if stop is None:
        return []
    found: list[Problem] = []
    known = [reward.key for reward in (*spec.validation.rewards, *spec.rewards)]
    if stop.score not in known:
        near = difflib.get_close_matches(stop.score, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        message = f"no reward is called {stop.score!r}.{hint} Known: {', '.join(known) or 'none'}."
        found.append(source.problem("train.early_stop.score", message))
    if spec.train.validate_every is None or spec.validation.clips == 0:
        message = "it looks at validations. Set train.validate_every, and validation.clips above 0."
        found.append(source.problem("train.early_stop", message))
    return found


def _duplicate_labels(spec: RunSpec, source: SpecSource) -> list[Problem]:
    found: list[Problem] = []
    for section, rewards in (("rewards", spec.rewards), ("validation.rewards", spec.validation.rewards)):
        seen: dict[str, int] = {}
        for index, reward in enumerate(rewards):
            if reward.key in seen:
                message = (
                    f"{reward.key!r} already names {section}.{seen[reward.key]} in the logs. Give one of them a label."
                )
                found.append(source.problem(f"{section}.{index}.label", message))
            seen[reward.key] = index
    return found
