"""Gradient checkpointing for networks that have none of their own."""

from __future__ import annotations

import functools
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


def _recomputed(forward: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapped
