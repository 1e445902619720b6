"""A network that scores latents: the first layers of a denoiser, a query that attends to their tokens, and an MLP.

Source: the latent reward of PRFL, arXiv 2511.21541, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vader.protocols import Branch
from vader.shapes import Latents, Scores

Call = Callable[[nn.Module, Latents, Tensor, Branch], Tensor]
"""``predict`` of a backbone: ``(network, latents (b ...), timestep (b,), branch) -> prediction``."""


class Head(nn.Module):
    """One score of a clip's tokens, in float32.

    Args:
        width: of the tokens, a multiple of ``heads``.
        heads: of the attention.
        hidden: width of the MLP.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, tokens: Tensor) -> Scores:
        """``(b n d)`` -> ``(b,)``, in the units of the labels: ``scale * output + shift``."""
        normed = self.norm(tokens.to(self.query.dtype))
        found, _ = self.attention(self.query.expand(len(tokens), -1, -1), normed, normed, need_weights=False)
        output: Tensor = self.mlp(found[:, 0])[:, 0]
        return self.scale * output + self.shift


class LatentNetwork(nn.Module):
    """Scores latents at any timestep.

    Args:
        trunk: called as the denoiser is.
        last: the layer of the trunk whose output is tokens.
        head: of as many channels as they have.
    """

    def __init__(self, trunk: nn.Module, last: nn.Module, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self._last = (last,)  # a part of the trunk already

    def forward(self, call: Call, latents: Latents, timestep: Tensor, branch: Branch) -> Scores:
        """``(b ...)``, ``(b,)`` and the positive branch of ``b`` prompts -> ``(b,)``."""
        scores: Scores = self.head(tokens(self.trunk, self._last[0], call, latents, timestep, branch))
        return scores


def tokens(trunk: nn.Module, last: nn.Module, call: Call, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
    """What the last layer of a trunk gives, ``(b n d)``; what the denoiser would make of it is not used."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = last.register_forward_hook(keep)
    try:
        call(trunk, latents, timestep, branch)
    finally:
        handle.remove()
    return kept[0]
