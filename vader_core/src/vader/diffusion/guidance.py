"""Classifier-free guidance (Ho and Salimans 2022, eq. 6): ``uncond + scale * (cond - uncond)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from vader.protocols import Conditioning
from vader.shapes import Latents

Predict = Callable[[Latents, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""``(latents, timestep (b,), embeds (b n d), extras) -> prediction``: ``predict`` of a backbone, its denoiser bound."""


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
        latents: ``(b c f h w)``.
        timestep: ``(b,)``.
        conditioning: of the ``b`` prompts.
        scale: guidance scale; 1 calls the conditional branch only.
        branches: which branches carry gradient. Without the unconditional one, its graph is not built.

    Returns:
        ``(b c f h w)``.
    """
    conditional = predict(latents, timestep, conditioning.prompt_embeds, conditioning.extras)
    if scale == 1.0:
        return conditional
    with torch.set_grad_enabled(torch.is_grad_enabled() and branches == "both"):
        unconditional = predict(latents, timestep, conditioning.negative_prompt_embeds, conditioning.extras)
    return unconditional + scale * (conditional - unconditional)
