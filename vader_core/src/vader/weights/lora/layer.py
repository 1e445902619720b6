"""A LoRA layer in three operations: peft's makes two more, and casts what has its type already."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional


class LeanLinear(Linear):  # type: ignore[misc]
    """peft's layer, whose update is added by the product itself: ``addmm(base(x), A x, B, alpha=scale)``.

    The same numbers but for rounding. Whatever is not a plain update (an adapter that is off or merged, names of
    adapters by row, another type than the input's) goes peft's way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``(... in)`` -> ``(... out)``."""
        if args or kwargs or self.disable_adapters or self.merged or not self._is_of_one_type(x):
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        result: Tensor = self.base_layer(x)
        for name in self.active_adapters:
            if name in self.lora_A:
                low = functional.linear(x, self.lora_A[name].weight).flatten(0, -2)
                up = self.lora_B[name].weight.t()
                added = torch.addmm(result.flatten(0, -2), low, up, alpha=self.scaling[name])
                result = added.view(*x.shape[:-1], added.shape[-1])
        return result

    def _is_of_one_type(self, x: Tensor) -> bool:
        """The input is a matrix or more, and everything is of its type or becomes so by autocast."""
        weights = [self.base_layer.weight, *(self.lora_A[name].weight for name in self.lora_A)]
        alike = torch.is_autocast_enabled(x.device.type) or all(weight.dtype == x.dtype for weight in weights)
        return x.ndim >= 2 and alike


def make_lean(denoiser: nn.Module) -> None:
    """Give the adapter's layers this forward, where they are plain: a linear layer without dropout or variant."""
    for module in denoiser.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear and _is_plain(module):
            module.__class__ = LeanLinear


def _is_plain(layer: Linear) -> bool:
    identity = all(type(dropout) is nn.Identity for dropout in layer.lora_dropout.values())
    return identity and not layer.lora_variant and not any(layer.lora_bias.values()) and not layer.fan_in_fan_out
