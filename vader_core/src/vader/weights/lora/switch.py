"""Turn an adapter that is on a denoiser up, down and off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from vader.weights.lora.names import NAME


def layers_of(denoiser: nn.Module) -> list[Any]:
    """The layers that carry the adapter."""
    from peft.tuners.lora import LoraLayer

    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]


def dropouts(denoiser: nn.Module) -> list[nn.Module]:
    """The adapter's dropouts, in training mode while it trains. The base network stays in eval mode always."""
    inside = [module for layer in layers_of(denoiser) for module in layer.lora_dropout.values()]
    return [module for module in inside if not isinstance(module, nn.Identity)]


def set_scale(denoiser: nn.Module, scale: float) -> None:
    """Scale the adapter's update; 0 takes the adapter out of the computation, which gives the base bit for bit."""
    for layer in layers_of(denoiser):
        layer.enable_adapters(enabled=scale != 0.0)
        if scale != 0.0:
            layer.set_scale(NAME, scale)


@contextmanager
def switched_off(denoiser: nn.Module) -> Iterator[None]:
    """The base model, bit for bit, while the context lasts. Unlike peft's own way it leaves ``requires_grad``."""
    layers = layers_of(denoiser)
    scales = [layer.scaling[NAME] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[NAME] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[NAME] = scale
