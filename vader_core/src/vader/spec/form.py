"""What is wrong with the form of a spec, in our words: the value seen, what was expected, the nearest name."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vader.errors import Problem, cut
from vader.spec.reading import Loc, SpecSource


def form_problems(source: SpecSource, error: ValidationError, model: type[BaseModel], base: Loc = ()) -> list[Problem]:
    """Pydantic's findings in our words: the value seen, what was expected, the nearest name."""
    found = error.errors(include_url=False, include_context=False)
    problems = [source.problem(base + _clean(item["loc"]), _say(item, model)) for item in found[:_SHOWN]]
    if len(found) > _SHOWN:
        problems.append(source.problem(base, f"and {len(found) - _SHOWN} more mistakes; correct these first."))
    return problems


_SHOWN = 20
"""Mistakes that one message lists."""


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
        return f"expected {_SHAPES[kind]}; found {cut(value)}."
    expected = cut(str(item["msg"]), plain=True).replace("Input should be ", "expected ").removeprefix("Value error, ")
    return f"{expected}; found {cut(value)}."


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
        return f"unknown field {cut(name)}; this takes no fields. Remove it."
    near = difflib.get_close_matches(name[:100], known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown field {cut(name)}.{hint} Known: {', '.join(known)}."


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        if here is None or part not in here.model_fields:
            return None
        here = next(models_in(here.model_fields[part].annotation), None)
    return here


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list) or hasattr(annotation, "__metadata__"):
        for inner in get_args(annotation):
            yield from models_in(inner)
