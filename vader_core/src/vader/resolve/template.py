"""``vader init``: a spec to start from, every field with its default and what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from vader.plugins import registry
from vader.spec import RunSpec

_PLAIN = re.compile(r"[\w./-]+")
_HEAD = """\
# A run of vader. Check it:  vader train {name} --dry-run      Start it:  vader train {name}
# Every field with its meaning; what you leave out has the value shown here. 'vader plugins' lists components.
"""


def starting_spec() -> RunSpec:
    """What ``vader init`` shows: the embedded default model when it is installed, else names to fill in."""
    shapes = any(entry.name == "shapes" for entry in registry.entries("backbone"))
    if not shapes:
        return RunSpec.model_validate(
            {"backbone": "wan", "prompts": {"name": "list", "options": {"prompts": ["a prompt"]}}}
        )
    return RunSpec.model_validate(
        {
            "backbone": {"name": "shapes", "adapter": {"rank": 8}},
            "sampler": {"steps": 10, "guidance_scale": 3.0},
            "prompts": {"name": "shapes", "options": {"split": "train"}},
            "rewards": ["shapes_alignment"],
            "train": {"steps": 40, "batch_size": 8, "learning_rate": 3e-3},
            "validation": {
                "prompts": {"name": "shapes", "options": {"split": "held_out"}},
                "rewards": ["shapes_accuracy"],
                "clips": 32,
            },
        }
    )


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
    if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value)
