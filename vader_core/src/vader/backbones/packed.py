"""A quantised linear layer without its numbers, for estimates: what it holds, and what backward keeps of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Packed(nn.Linear):
    """Stands for a linear layer whose weight is packed.

    Args:
        layer: in its place.
        size: bytes of the packed weight.
        keeps: see :class:`vader.backbones.quantization.Scheme`.
    """

    def __init__(self, layer: nn.Linear, size: int, *, keeps: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        packed = torch.empty(size, dtype=torch.uint8, device=layer.weight.device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self._keeps = keeps

    def forward(self, input: Tensor) -> Tensor:
        """``(... i)`` -> ``(... o)``."""
        shape = self.out_features, self.in_features
        if self._keeps:
            return functional.linear(input, self.weight.new_empty(shape, dtype=input.dtype), self.bias)
        output: Tensor = _Unpacked.apply(input, self.weight, self.bias, shape)
        return output


class _Unpacked(torch.autograd.Function):
    """The weight is unpacked in forward, and again in backward."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, packed: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.packed, ctx.shape = packed, shape
        return functional.linear(input, packed.new_empty(shape, dtype=input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0] @ ctx.packed.new_empty(ctx.shape, dtype=grads[0].dtype), None, None, None
