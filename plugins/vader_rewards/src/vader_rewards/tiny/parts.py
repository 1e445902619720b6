"""What tiny networks are made of: sizes, and random weights that tell images apart."""

from __future__ import annotations

from typing import Any

WIDTH, SIDE, PATCH, FEATURES = 32, 32, 8, 16


def spread(network: Any) -> Any:
    """Larger random weights than a network starts with, so that images that differ have features that differ."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network.eval()


def tower(**more: Any) -> dict[str, Any]:
    """The configuration of a transformer: its sizes, and what else is given."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **more,
    }
