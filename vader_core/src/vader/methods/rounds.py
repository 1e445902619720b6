"""Clips that several optimizer steps use: kept in memory, and in checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def stored(rounds: Iterable[Any]) -> list[dict[str, Any]]:
    """Dataclasses of tensors, as a checkpoint keeps them."""
    return [_moved(vars(one), "cpu") for one in rounds]


def restored(kind: type[Any], state: Iterable[Any], device: Any) -> list[Any]:
    """What :func:`stored` gave, on a device."""
    return [kind(**_moved(one, device)) for one in state]


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, dict):
        return {key: _moved(inner, device) for key, inner in value.items()}
    return value.to(device)
