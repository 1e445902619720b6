"""Fields and options as tables in Markdown: name, type, default and meaning, from the models themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vader.spec.form import models_in
from vader.spec.schema import inlined


@dataclass(frozen=True)
class Field:
    """One line of a table.

    Args:
        name: dotted path from the model; ``[]`` stands for every item of a list.
        type: what it takes, in words.
        default: as YAML; empty for a section, whose fields have their own; ``required`` where there is none.
        meaning: its description.
    """

    name: str
    type: str
    default: str
    meaning: str


def fields(model: type[BaseModel], path: str = "") -> Iterator[Field]:
    """Every field of a model, those of the models inside it included, in their order.

    Args:
        path: what stands in front of each name.
    """
    yield from _fields(model, inlined(model.model_json_schema())["properties"], path)


def _fields(model: type[BaseModel], properties: dict[str, Any], path: str) -> Iterator[Field]:
    for name, info in model.model_fields.items():
        node = properties[name]
        inner = next(models_in(info.annotation), None)
        yield Field(f"{path}{name}", type_in_words(node), _default(info), info.description or "")
        if inner is not None:
            section, dots = _section(node)
            yield from _fields(inner, section["properties"], f"{path}{name}{dots}.")


def _section(node: dict[str, Any], dots: str = "") -> tuple[dict[str, Any], str]:
    """The part of a schema that has the fields, and whether it is the items of a list."""
    if "items" in node:
        return _section(node["items"], dots + "[]")
    choices = [one for one in node.get("anyOf", ()) if one.get("type") != "null"]
    found = next((one for one in choices if "properties" in one or "items" in one), None)
    return _section(found, dots) if found is not None else (node, dots)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        said = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{said['name']}`" if said.keys() == {"name"} else ""
    if isinstance(value, str) and Path(value).is_absolute():
        return ""  # of a file inside a package; where that lies is another place on every machine
    return f"`{json.dumps(value, ensure_ascii=False)}`"


_WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}

_LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}


def type_in_words(node: dict[str, Any]) -> str:
    """What a part of a JSON schema takes, in words."""
    if "enum" in node or "const" in node:
        return ", ".join(f"`{_bare(value)}`" for value in node.get("enum", [node.get("const")]))
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(map(type_in_words, node["anyOf"])))
    if node.get("type") == "array":
        if "prefixItems" in node:
            return f"list of {len(node['prefixItems'])} {type_in_words(node['prefixItems'][0])}s"
        items = type_in_words(node.get("items", {}))
        return f"list of {'sections' if items == 'section' else items}"
    if "properties" in node:
        return "section"
    if node.get("type") == "object":
        values = node.get("additionalProperties")
        return f"mapping to {type_in_words(values)}" if isinstance(values, dict) and values else "mapping"
    word = _WORDS.get(node.get("type", ""), "anything")
    limits = [f"{sign} {node[key]}" for key, sign in _LIMITS.items() if key in node]
    return ", ".join([word, *limits]) if limits else word


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def table(lines: Iterator[Field] | list[Field]) -> str:
    """The lines as a table in Markdown."""
    rows = [f"| `{line.name}` | {line.type} | {line.default} | {_cell(line.meaning)} |" for line in lines]
    return "\n".join(["| name | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    """A text that no table takes for markup."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").split())
