"""Gradient checkpointing for networks that have none of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def recompute_layers(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Recompute every layer of these classes in backward (non-reentrant).

    Between layers one activation is kept, the layer's input. The layers' ``forward`` is wrapped; names of parameters
    stay as they are.
    """
    for layer in network.modules():
        if isinstance(layer, kinds):
            layer.forward = _recomputed(layer.forward)


@contextmanager
def recomputing(layers: Iterable[nn.Module]) -> Iterator[None]:
    """What these layers do inside is made again in backward (non-reentrant)."""
    before = {layer: vars(layer).get("forward") for layer in layers}
    for layer in before:
        layer.forward = _recomputed(layer.forward)
    try:
        yield
    finally:
        for layer, forward in before.items():
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _recomputed(forward: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapped
