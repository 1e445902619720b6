"""How a stage is run: in which precision, and whether its inside is held or made again in backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from vader.backbones.streaming.stage import Context, Flow, Stage
from vader.protocols import DecodePlan

SMALL = 2**20
"""Bytes of a stage's input up to which its inside is held rather than recomputed: a few megabytes in all."""

DTYPES = {"float32": None, "bf16": torch.bfloat16}
"""Precision of a plan -> the dtype of weights and hidden states; None leaves them as they are."""


def small(*tensors: Tensor) -> bool:
    """Whether what makes something of these is held rather than recomputed."""
    return sum(tensor.nbytes for tensor in tensors) <= SMALL


def frame_by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``function`` of ``(b c f h w)``, which sees each frame by itself; in backward one is made again at a time."""
    if not (torch.is_grad_enabled() and x.requires_grad) or small(x):
        return function(x)
    return torch.cat([cast(Tensor, recomputed(function, frame)) for frame in torch.split(x, 1, dim=2)], dim=2)


def through(stage: Stage, hidden: Tensor, plan: DecodePlan) -> Tensor:
    """A hidden state through one stage that keeps nothing, recomputed in backward."""
    dtype = DTYPES[plan.precision]
    arguments = (apply, forward, stage, (hidden.to(dtype or hidden.dtype),), (), True, dtype)
    run = recomputed if torch.is_grad_enabled() else called
    return cast(Tensor, run(*arguments)[0][0]).float()


def forward(stage: Stage, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
    """A stage on a chunk."""
    return cast("tuple[Flow, Context]", stage(flow, context, first))


def carry(stage: Stage, flow: Flow, context: Context, first: bool) -> Context:
    """A stage's context alone."""
    return stage.carry(flow, context, first)


def apply(
    function: Callable[..., Any], stage: Stage, flow: Flow, context: Context, first: bool, dtype: torch.dtype | None
) -> Any:
    """A stage in its own precision, or with its weights in another for the time of the call."""
    return function(stage if dtype is None else _in_dtype(stage, dtype), flow, context, first)


M = TypeVar("M", bound=nn.Module)


def _in_dtype(module: M, dtype: torch.dtype) -> M:
    """The module with its weights in another dtype; the module itself stays as it is."""
    twin = copy.copy(module)
    weights = {name: None if each is None else each.to(dtype) for name, each in module._parameters.items()}
    parts = {name: None if each is None else _in_dtype(each, dtype) for name, each in module._modules.items()}
    vars(twin).update(_parameters=weights, _modules=parts)
    return twin


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it."""
    return function(*arguments)


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it; its inside is made again in backward. Tensors are given one by one, so that calls may be nested."""
    leaves, structure = tree_flatten(arguments)

    def run(*given: Any) -> Any:
        return function(*tree_unflatten(given, structure))

    return checkpoint(run, *leaves, use_reentrant=False, preserve_rng_state=False)
