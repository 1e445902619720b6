"""A spec as commented YAML: every field with its value and what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from vader.spec.run import RunSpec
from vader.spec.yaml_text import load

_PLAIN = re.compile(r"[\w./-]+")
_HEAD = """\
# A run of vader. Check it:  vader train {name} --dry-run      Start it:  vader train {name}
# Every field with its meaning; what you leave out has the value shown here. 'vader plugins' lists components.
"""


def template(name: str, spec: RunSpec) -> str:
    """A spec as commented YAML.

    Args:
        name: of the file, for its first lines.
        spec: whose values are shown.
    """
    return _HEAD.format(name=name) + "\n".join(_lines(spec, "")) + "\n"


def _lines(model: BaseModel, indent: str) -> Iterator[str]:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        comment = f"  # {info.description}" if info.description else ""
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:{comment}"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield f"{indent}{name}:{comment}"
            for item in value:
                first, *rest = _lines(item, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from rest
        else:
            yield f"{indent}{name}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and load(value) == value:
        return value
    return json.dumps(value)
