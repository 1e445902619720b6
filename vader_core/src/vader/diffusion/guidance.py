"""Classifier-free guidance (Ho and Salimans 2022, eq. 6): ``uncond + scale * (cond - uncond)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vader.protocols import Branch, Conditioning
from vader.shapes import Latents

Predict = Callable[[Latents, Tensor, Branch], Tensor]
"""``(latents, timestep (b,), branch) -> prediction``: ``predict`` of a backbone, its denoiser bound."""

Combine = Callable[[Tensor, Tensor, float], Tensor]
"""``(conditional, unconditional, scale) -> prediction``: how the two branches make one."""

Branches = Literal["both", "conditional"]
"""Guidance branches that carry gradient."""

Recompute = Literal["auto", True, False]
"""Whether calls of the denoiser with gradient are made again in backward, in place of keeping what they compute.

False: they are kept. "auto": they are made again, both branches in one call. True: they are made again, each branch by
itself, so that no more than one branch's graph is held at a time.
"""


def classifier_free(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """``uncond + scale * (cond - uncond)``, each ``(b ...)``."""
    return torch.add(unconditional, conditional - unconditional, alpha=scale)


def guided(
    predict: Predict,
    latents: Latents,
    timestep: Tensor,
    conditioning: Conditioning,
    scale: float,
    branches: Branches = "both",
    recompute: Recompute = False,
    combine: Combine = classifier_free,
) -> Tensor:
    """The guided prediction.

    Both branches are one call of the denoiser, the conditional one first in the batch. They are two calls, the
    conditional one first, where their tensors differ in names, shapes or dtypes, where only the conditional one carries
    gradient, and where each is recomputed by itself.

    Args:
        predict: one call of the denoiser.
        latents: ``(b ...)``.
        timestep: ``(b,)``.
        conditioning: of the ``b`` prompts.
        scale: guidance scale; 1 calls the conditional branch only.
        branches: which branches carry gradient. Without the unconditional one, its graph is not built.
        recompute: of calls with gradient.
        combine: makes one prediction of the two.

    Returns:
        The prediction, of the latents' shape.

    Raises:
        ValueError: guidance is asked for, and the conditioning has no negative branch.
    """
    if scale == 1.0:
        return _call(recompute, predict, latents, timestep, conditioning.positive)
    conditional, unconditional = both_branches(predict, latents, timestep, conditioning, scale, branches, recompute)
    return combine(conditional, unconditional, scale)


def both_branches(
    predict: Predict,
    latents: Latents,
    timestep: Tensor,
    conditioning: Conditioning,
    scale: float,
    branches: Branches = "both",
    recompute: Recompute = False,
) -> tuple[Tensor, Tensor]:
    """The conditional and the unconditional prediction; see :func:`guided`."""
    if conditioning.negative is None:
        raise ValueError(f"guidance_scale is {scale:g}, but the backbone has no negative branch; expected 1.")
    apart = torch.is_grad_enabled() and (branches == "conditional" or recompute is True)
    positive, negative = conditioning.positive, conditioning.negative
    if not apart and (joined := _joined(conditioning, positive, negative)) is not None:
        conditional, unconditional = _call(recompute, _both, predict, latents, timestep, joined).chunk(2)
        return conditional, unconditional
    conditional = _call(recompute, predict, latents, timestep, positive)
    with torch.set_grad_enabled(torch.is_grad_enabled() and branches == "both"):
        return conditional, _call(recompute, predict, latents, timestep, negative)


def _alike(one: Branch, other: Branch) -> bool:
    """Whether two branches can be one batch."""
    return one.keys() == other.keys() and all(
        tensor.shape == other[name].shape and tensor.dtype == other[name].dtype for name, tensor in one.items()
    )


def _joined(conditioning: Conditioning, positive: Branch, negative: Branch) -> Branch | None:
    """Both branches as one batch, or None; kept with their conditioning, unless they have a graph of their own."""
    if "joined" not in conditioning.kept:
        joined = None
        if _alike(positive, negative):
            joined = {name: torch.cat([tensor, negative[name]]) for name, tensor in positive.items()}
        if any(tensor.requires_grad for tensor in (*positive.values(), *negative.values())):
            return joined
        conditioning.kept["joined"] = joined
    found: Branch | None = conditioning.kept["joined"]
    return found


def _both(predict: Predict, latents: Latents, timestep: Tensor, joined: Branch) -> Tensor:
    """The predictions of two branches, one after the other along the batch."""
    return predict(torch.cat([latents, latents]), timestep.repeat(2), joined)


def _call(recompute: Recompute, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """A call, made again in backward if so asked (non-reentrant checkpoint)."""
    if recompute is False or not torch.is_grad_enabled():
        return function(*arguments)
    again: Tensor = checkpoint(function, *arguments, use_reentrant=False)
    return again
