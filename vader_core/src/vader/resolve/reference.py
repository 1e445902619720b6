"""Pages of reference in Markdown: every field of a spec, and every option of every installed component."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from vader.plugins import registry
from vader.resolve.installed import option_model
from vader.spec import Options, RunSpec
from vader.spec.tables import fields, table

PLACES = {"backbone": "backbone", "sampler": "sampler", "prompts": "prompts", "reward": "rewards[]", "method": "method"}
"""Kind of component -> where a spec names it."""

_FIELDS = """\
# Fields of a spec

Every field, in the order of a spec: a dot is a level of YAML, `[]` stands for every item of a list. A component may be
written by its name alone: `backbone: wan` is `backbone: {name: wan}`. The options of each are in
[Components](components.md).

"""

_COMPONENTS = """\
# Components and their options

What is registered by name, and the options that each takes in its place in a spec. `vader check NAME` tries one,
`vader plugins` says what is installed.

"""


def fields_page() -> str:
    """Every field of a spec, by section."""
    return _FIELDS + "\n".join(_sections())


def _sections() -> Iterator[str]:
    every = list(fields(RunSpec))
    for name, info in RunSpec.model_fields.items():
        inside = [line for line in every if line.name.split(".")[0].split("[")[0] == name]
        yield f"## {name}\n\n{info.description}\n\n{table(inside)}"


def components_page(notice: Callable[[str], None] = lambda text: None) -> str:
    """Every installed component by kind, with its options.

    Args:
        notice: told of each whose options cannot be had, and why.
    """
    return _COMPONENTS + "\n".join(_components(notice))


def _components(notice: Callable[[str], None]) -> Iterator[str]:
    for kind, place in PLACES.items():
        yield f"## {kind if kind == 'prompts' else f'{kind}s'}\n"
        for entry in registry.entries(kind):
            model = option_model(entry, notice)
            yield f"### {kind} {entry.name}\n\n{_about(entry, model)}\n"
            if model is not None and model.model_fields:
                yield table(list(fields(model, f"{place}.options.")))


def _about(entry: registry.Entry, model: type[BaseModel] | None) -> str:
    """What it is for, who offers it, and what it says of options that are not listed."""
    said = _said(entry.load()) if model is not None else ""
    what = " Its options are not known." if model is None else " It takes no options." if model is Options else ""
    return f"{said} Of `{entry.distribution}`.{what}".strip()


def _said(component: Any) -> str:
    """The first paragraph of its docstring."""
    text = component.__doc__ or ""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
