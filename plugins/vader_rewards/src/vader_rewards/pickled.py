"""Tensors out of files that pickle whole modules, without running anything that such a file names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader import WeightsError


class Inert:
    """Stands for every class and function that a file names: keeps the state it is given, and does nothing."""

    state: Any = None

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read(path: Path) -> Any:
    """What a file of ``torch.save`` holds, by ``weights_only=True``; what is neither data nor tensor is :class:`Inert`.

    Raises:
        vader.WeightsError: if the file is missing, truncated or of another format.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip and pickle readers have no exception in common
        raise WeightsError(  # torch's own words advise to run what the file holds
            f"{path} ({path.stat().st_size:,} bytes) is truncated, or not a file of torch.save. Fetch it again."
        ) from error


def tensors(module: Inert, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a module that was read, by the names of its state dict.

    Raises:
        TypeError: if it is no module.
    """
    state = module.state
    if not (isinstance(state, Mapping) and {"_parameters", "_buffers", "_modules"} <= state.keys()):
        raise TypeError(f"expected a module, found the state {type(state).__name__}")
    passing = state.get("_non_persistent_buffers_set", ())
    own = {**state["_parameters"], **state["_buffers"]}
    found = {prefix + name: t for name, t in own.items() if isinstance(t, Tensor) and name not in passing}
    for name, child in state["_modules"].items():
        if isinstance(child, Inert):
            found |= tensors(child, f"{prefix}{name}.")
    return found
