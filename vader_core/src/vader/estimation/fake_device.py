"""A machine that is not there: networks without weights, and the attention that the wanted device would use.

Everything runs on fake tensors (:class:`torch._subclasses.fake_tensor.FakeTensorMode`), which have shapes, dtypes and
lifetimes but no bytes. The wanted device is played by fake tensors on the CPU, because autograd needs a driver for
fake CUDA tensors; the host, where an offloaded text encoder lives, is played by fake tensors on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vader.estimation.memory_tracker import tensors_in
from vader.estimation.shortcuts import STAGE as STAGE
from vader.estimation.shortcuts import shortcut

HOST = torch.device("meta")
"""What plays the host of an accelerator."""
_aten = torch.ops.aten


class Machine:
    """A pretended device of one kind.

    Args:
        device: ``cuda`` or ``cpu``: whose kernels are followed, where it matters to what is kept for backward.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """New tensors are fake inside, and kernels those of the device."""
        with ExitStack() as stack:
            for mode in (self._fake, _Numbers(self.device, self._fake)):
                stack.enter_context(mode)
            stack.enter_context(_real_copies())
            stack.enter_context(_conversions())
            stack.enter_context(_arrays())
            if self.device.type == "cuda":
                stack.enter_context(_kernels())
            yield

    def dress(self, module: nn.Module, home: torch.device) -> None:
        """Make a module's parameters and buffers fake, in place; those of meta tensors and of real ones alike.

        Args:
            module: any; tensors that are fake already stay.
            home: where it lives on the machine; the wanted device, or another one for what is offloaded.
        """
        played = STAGE if home.type == self.device.type else HOST
        twins: dict[int, Tensor] = {}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and not isinstance(parameter.data, FakeTensor):
                    twin = twins.get(id(parameter))
                    if twin is None:
                        twin = nn.Parameter(self._twin(parameter, played), parameter.requires_grad)
                        twins[id(parameter)] = twin
                    part._parameters[name] = twin  # type: ignore[assignment]
            for name, buffer in part._buffers.items():
                if buffer is not None and not isinstance(buffer, FakeTensor):
                    part._buffers[name] = self._twin(buffer, played)

    def _twin(self, tensor: Tensor, device: torch.device) -> Tensor:
        return FakeTensor(self._fake, torch.empty_like(tensor.detach(), device="meta"), device)


class _Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps numbers that are known: operations on real tensors alone, such as a sampler's table, stay real.

    What asks for the wanted device is sent to what plays it. A number read from a fake tensor is 1; two of a shape are
    equal. A fake mask of tokens is true everywhere, and its negation nowhere: the most that a text can have. One that
    compares numbers is not known.
    """

    def __init__(self, device: torch.device, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted, self._fake = device.type, fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not kwargs and (known := shortcut(self._fake, func, args)) is not None:
            return known
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == self._wanted:
            kwargs = {**kwargs, "device": STAGE}
        tensors = tensors_in(args)
        if tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is _aten.equal.default:
            return True
        if func is _aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is _aten.nonzero.default and not _compares(args[0]):
            return torch.stack([place for place in _places(args[0]) if place is not None], dim=1)
        if func in _INDEXING:
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        result = func(*args, **kwargs)
        if isinstance(result, FakeTensor) and result.dtype == torch.bool:
            result.compares = func in _COMPARISONS or any(map(_compares, tensors))  # type: ignore[attr-defined]
            if func in _NEGATIONS:
                result.true_nowhere = not getattr(args[0], "true_nowhere", False)  # type: ignore[attr-defined]
        return result


_INDEXING = {
    *(_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default),
    *(_aten._index_put_impl_.default, _aten._unsafe_index.Tensor, _aten._unsafe_index_put.default),
}
_COMPARISONS = {
    getattr(getattr(_aten, name), kind)
    for name in ("gt", "ge", "lt", "le", "eq", "ne")
    for kind in ("Scalar", "Tensor")
}
_NEGATIONS = {_aten.bitwise_not.default, _aten.logical_not.default}


def _compares(mask: Tensor) -> bool:
    """Whether a mask depends on numbers that are not known."""
    return bool(getattr(mask, "compares", False))


def _places(index: Tensor | None) -> list[Tensor | None]:
    """An index by places; in that of a fake mask, the places where it is true."""
    if index is None or index.dtype != torch.bool or _compares(index):
        return [index]
    count = 0 if getattr(index, "true_nowhere", False) else index.numel()
    return [index.new_empty((count,), dtype=torch.long) for _ in range(index.dim())]


@contextmanager
def _real_copies() -> Iterator[None]:
    """A deep copy of a real tensor is real; torch would fill a fake one with its bytes, and fail."""
    plain = Tensor.__deepcopy__

    def copied(tensor: Tensor, memo: Any) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return plain(tensor, memo)  # type: ignore[no-any-return, no-untyped-call]
        with unset_fake_temporarily():
            return plain(tensor, memo)  # type: ignore[no-any-return, no-untyped-call]

    Tensor.__deepcopy__ = copied  # type: ignore[method-assign]
    try:
        yield
    finally:
        Tensor.__deepcopy__ = plain  # type: ignore[method-assign]


@contextmanager
def _conversions() -> Iterator[None]:
    """A module's fake parameters are replaced by converted ones, as by ``module.to(dtype)``.

    torch would swap the two tensors, which fails as soon as anything refers to one of them weakly, and a graph does.
    """
    plain: Any = nn.Module._apply

    def apply(module: nn.Module, function: Any, recurse: bool = True) -> Any:
        before = dict(module._parameters)
        fakes = {name: module._parameters.pop(name) for name in before if isinstance(before[name], FakeTensor)}
        plain(module, function, recurse)
        for name, parameter in fakes.items():
            assert parameter is not None
            with torch.no_grad():
                converted = function(parameter)
            if converted is not parameter:
                fakes[name] = nn.Parameter(converted, parameter.requires_grad)
        known = {**module._parameters, **fakes}
        module._parameters.clear()
        module._parameters.update({name: known[name] for name in before})
        return module

    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = plain  # type: ignore[method-assign]


@contextmanager
def _arrays() -> Iterator[None]:
    """The array of a fake tensor, such as that of a clip that is summed up in a few bytes, has zeros."""

    def zeros(tensor: Tensor) -> np.ndarray:
        with unset_fake_temporarily():
            return torch.zeros(tensor.shape, dtype=tensor.dtype).numpy()

    FakeTensor.numpy = zeros  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del FakeTensor.numpy


@contextmanager
def _kernels() -> Iterator[None]:
    """Attention and dropout as a CUDA device does them; its choice decides what is kept for backward.

    The functions are replaced rather than caught by a mode of torch functions, which backward leaves, so that what is
    recomputed there would take other kernels.
    """
    before = functional.scaled_dot_product_attention, functional.dropout
    functional.scaled_dot_product_attention, functional.dropout = _attention, _dropout
    try:
        yield
    finally:
        functional.scaled_dot_product_attention, functional.dropout = before


_plain_attention = functional.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of a CUDA device: flash where it can, else memory-efficient.

    Source: the order of preference in torch's ``sdp_utils``.
    """
    if query.dim() != 4 or enable_gqa:
        return _plain_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if half and attn_mask is None and query.shape[-1] == value.shape[-1] <= 256:
        pad = -query.shape[-1] % 8
        scale = scale if scale is not None else query.shape[-1] ** -0.5
        padded = [functional.pad(tensor, (0, pad)) if pad else tensor for tensor in (query, key, value)]
        flash = _aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)[0]
        return flash[..., : value.shape[-1]] if pad else flash  # type: ignore[no-any-return]
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, float("-inf"))
        pad = -bias.shape[-1] % 16
        bias = functional.pad(bias, (0, pad))[..., : bias.shape[-1]] if pad else bias
        bias = bias.expand(*query.shape[:-1], key.shape[-2])
    kept = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    efficient = _aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, kept, dropout_p, is_causal, scale=scale
    )
    return efficient[0]  # type: ignore[no-any-return]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of a CUDA device: what is kept for backward is a mask of one byte per element."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input
