"""Checkpoint files, opened without reading them: names and shapes first, then one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vader import WeightsError
from vader.sdk import PICKLED, SAFETENSORS, load_pickled, unreadable
from vader_videocrafter.layout import FIX, Shapes

_DEEPSPEED = "_forward_module."


@dataclass(frozen=True)
class Stored:
    """The tensors of a checkpoint: their shapes by name, and how one is read."""

    shapes: Shapes
    read: Callable[[str], Tensor]


def open_checkpoint(path: Path, name: str) -> Stored:
    """Open a checkpoint. Its tensors stay in the file (mapped) until they are read.

    Args:
        path: ``.safetensors``, or ``.ckpt``, ``.pt``, ``.pth`` as torch saves them, read with ``weights_only=True``.
        name: what the user calls it, for errors.

    Raises:
        vader.WeightsError: it is of another type, truncated, holds code, or no tensors.
    """
    suffix = path.suffix.lower()
    if suffix != SAFETENSORS and suffix not in PICKLED:
        raise WeightsError(
            f"{name} ends in {suffix or 'nothing'}; expected {', '.join((*PICKLED, SAFETENSORS))}. {FIX}"
        )
    return _safetensors(path, name) if suffix == SAFETENSORS else _pickled(path, name)


def _safetensors(path: Path, name: str) -> Stored:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise unreadable(path, name, "a safetensors file", error, FIX) from error
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    return Stored(shapes, file.get_tensor)


def _pickled(path: Path, name: str) -> Stored:
    state = tensors(load_pickled(path, name, FIX, mapped=True), name)
    return Stored({key: tuple(tensor.shape) for key, tensor in state.items()}, state.__getitem__)


def tensors(content: Any, name: str) -> Mapping[str, Tensor]:
    """The state dict in what was saved: itself, or under ``state_dict``, or under ``module`` (DeepSpeed).

    Raises:
        vader.WeightsError: there is none.
    """
    if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):
        content = {key.removeprefix(_DEEPSPEED): tensor for key, tensor in content["module"].items()}
    elif isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{name} holds {type(content).__name__} without tensors; expected a state dict. {FIX}")
    strange = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        kind = type(content[strange[0]]).__name__
        raise WeightsError(f"{name} is no state dict: {strange[0]!r} is of type {kind}, not a tensor. {FIX}")
    return content
