"""Calls without gradient whose adapter is part of the weights: the adapter then costs nothing in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vader.weights.lora.names import NAME


class Merged:
    """Weights with the adapter's update in them, made once, for calls of the denoiser under :meth:`used`.

    The layers' own weights are put aside and put back as they were, so nothing drifts.

    Args:
        layers: of the adapter, all as :func:`merged` wants them.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        import torch

        self._lists = [layer.merged_adapters for layer in layers]
        self._weights = [layer.base_layer.weight for layer in layers]
        with torch.no_grad():
            self._sums = [
                torch.addmm(
                    layer.base_layer.weight,
                    layer.lora_B[NAME].weight,
                    layer.lora_A[NAME].weight,
                    alpha=layer.scaling[NAME],
                )
                for layer in layers
            ]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Calls use the merged weights while the context lasts. Nothing may be differentiated in it."""
        own = [weight.data for weight in self._weights]
        try:
            for weight, merged, adapters in zip(self._weights, self._sums, self._lists, strict=True):
                weight.data = merged
                adapters.append(NAME)
            yield
        finally:
            for weight, data, adapters in zip(self._weights, own, self._lists, strict=True):
                weight.data = data
                adapters.clear()


def merged(layers: Sequence[Any]) -> Merged | None:
    """The adapter merged into a copy of the weights that it changes.

    None where the merged call would not be the same but for rounding, or its weights are not here: weights narrower
    than the adapter (a small update is lost in them), quantised or sharded ones, ones of which some wait on another
    device, an adapter that is off, or has a dropout.

    Args:
        layers: all that carry the adapter, of :func:`vader.weights.lora.layers_of`.
    """
    devices = {layer.base_layer.weight.device for layer in layers}
    return Merged(layers) if len(devices) == 1 and all(map(_can_be_merged, layers)) else None


def _can_be_merged(layer: Any) -> bool:
    import torch

    from vader.weights.lora.layer import LeanLinear

    plain = type(layer) is LeanLinear and not layer.disable_adapters and not layer.merged
    if not plain or not list(layer.lora_A) == list(layer.active_adapters) == [NAME]:
        return False
    weight, adapter = layer.base_layer.weight, layer.lora_A[NAME].weight
    return type(weight.data) is torch.Tensor and (weight.dtype, weight.device) == (adapter.dtype, adapter.device)
