"""Classifier-free guidance (Ho and Salimans 2022, eq. 6): ``uncond + scale * (cond - uncond)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vader.protocols import Branch, Conditioning
from vader.shapes import Latents

Predict = Callable[[Latents, Tensor, Branch], Tensor]
"""``(latents, timestep (b,), branch) -> prediction``: ``predict`` of a backbone, its denoiser bound."""


def guided(
    predict: Predict,
    latents: Latents,
    timestep: Tensor,
    conditioning: Conditioning,
    scale: float,
    branches: Literal["both", "conditional"] = "both",
) -> Tensor:
    """The guided prediction, conditional branch first.

    Args:
        predict: one call of the denoiser.
        latents: ``(b ...)``.
        timestep: ``(b,)``.
        conditioning: of the ``b`` prompts.
        scale: guidance scale; 1 calls the conditional branch only.
        branches: which branches carry gradient. Without the unconditional one, its graph is not built.

    Returns:
        The prediction, of the latents' shape.

    Raises:
        ValueError: guidance is asked for, and the conditioning has no negative branch.
    """
    conditional = predict(latents, timestep, conditioning.positive)
    if scale == 1.0:
        return conditional
    if conditioning.negative is None:
        raise ValueError(f"guidance_scale is {scale:g}, but the backbone has no negative branch; expected 1.")
    with torch.set_grad_enabled(torch.is_grad_enabled() and branches == "both"):
        unconditional = predict(latents, timestep, conditioning.negative)
    return unconditional + scale * (conditional - unconditional)
