"""A short way for the operations that a step makes most often: what they give is known from the operands' shapes.

:class:`FakeTensorMode` gives the same by a way many times as long, through Python references of each operation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from vader.estimation.memory_tracker import tensors_in

STAGE = torch.device("cpu")
"""What plays the wanted device."""
_aten = torch.ops.aten


def _named(**names: str) -> frozenset[Any]:
    """Operations by overload."""
    return frozenset(getattr(getattr(_aten, name), kind) for kind, each in names.items() for name in each.split())


_ELEMENTWISE = _named(
    default="neg abs silu silu_backward rsqrt sqrt exp clamp_min clamp_max",
    Tensor="mul add sub div",
    Scalar="mul add sub div",
    Tensor_Scalar="pow",
)
_SHAPED = _named(
    default="detach view t expand _unsafe_view permute mm bmm addmm convolution", Tensor="slice", int="transpose select"
)
"""These have kernels for shapes alone that are quick, and one result."""


def shortcut(mode: FakeTensorMode, func: Any, args: Any) -> Tensor | None:
    """The result of an operation without keyword arguments; None where this way does not know it.

    Args:
        mode: whose fake tensor the result is.
        func: an operation of aten.
        args: its operands; those that are tensors must be fake ones of the device, without known values.
    """
    if func in _ELEMENTWISE:
        if (shape := _broadcast(args)) is None:
            return None
        with in_kernel_invocation_manager(mode):
            result = torch.empty(shape, dtype=args[0].dtype, device="meta")
    elif func in _SHAPED and all(map(_plain, tensors_in(args))):
        with in_kernel_invocation_manager(mode):
            result = func(*args)
    else:
        return None
    return FakeTensor(mode, result, STAGE)


def _plain(tensor: Tensor) -> bool:
    """Whether nothing but the shape of a tensor matters: masks remember what they say of their places."""
    return (
        type(tensor) is FakeTensor
        and tensor.fake_device == STAGE
        and tensor.constant is None
        and tensor.dtype != torch.bool
    )


def _broadcast(args: Any) -> torch.Size | None:
    """The shape of an elementwise result, where it is contiguous and of the operands' own dtype for certain."""
    first = args[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    largest = first
    for value in args:
        if isinstance(value, Tensor):
            if not (_plain(value) and value.dtype == first.dtype and value.dim() and value.is_contiguous()):
                return None
            if value.numel() > largest.numel():
                largest = value
        elif not isinstance(value, int | float):
            return None
    for value in args:
        if isinstance(value, Tensor) and value is not largest and not _fits(value.shape, largest.shape):
            return None
    return largest.shape


def _fits(shape: torch.Size, into: torch.Size) -> bool:
    """Whether a shape broadcasts to another without changing it."""
    lengths = zip(reversed(shape), reversed(into), strict=False)
    return len(shape) <= len(into) and all(one in (1, other) for one, other in lengths)
