"""Safetensors files of which equal tensors have equal bytes: names in order, metadata in order.

The library writes metadata in an order of its own, another one in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The format's names of dtypes."""


def header(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype], metadata: Mapping[str, str]
) -> bytes:
    """Length and JSON header of a file, in the order of ``shapes``.

    Source: the format of safetensors, whose data starts at a multiple of 8.
    """
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtypes[name].itemsize
        entries[name] = {"dtype": CODES[dtypes[name]], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def save_tensors(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors; wide ones first, so that each begins at a multiple of its width, then by name.

    Args:
        state: by name.
        path: of the file.
        metadata: strings by name.
    """
    names = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name))
    tensors = {name: state[name].detach().to("cpu").contiguous() for name in names}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    with path.open("wb") as file:
        file.write(header(shapes, dtypes, dict(sorted(metadata.items()))))
        for tensor in tensors.values():
            file.write(as_bytes(tensor))
