"""The networks that a component holds, wherever it keeps them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_DEPTH = 4
"""How deep networks are looked for in the attributes of a component's attributes."""


def networks(component: Any) -> dict[str, nn.Module]:
    """The networks that a component holds, by the name of the attribute; the component itself if it is one."""
    found: dict[str, nn.Module] = {}
    _search(component, "", found, set(), _DEPTH)
    return found


def _search(value: Any, name: str, found: dict[str, nn.Module], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0 or isinstance(value, Tensor | type):
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found[name if name not in found else f"{name} {len(found)}"] = value
        return
    if isinstance(value, Mapping):
        inner = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{name}.{index}", item) for index, item in enumerate(value)]
    else:
        inner = list(getattr(value, "__dict__", {}).items()) if not callable(value) or _is_component(value) else []
    for key, item in inner:
        _search(item, key.lstrip("_"), found, seen, depth - 1)


def _is_component(value: Any) -> bool:
    """Whether something callable is an object of a class, not a function or a method."""
    return not inspect.isroutine(value)
