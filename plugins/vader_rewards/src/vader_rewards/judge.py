"""Large frozen networks as judges: what they score carries its gradient, and nothing of their own memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vader.sdk import recompute_layers
from vader_rewards.holding import JudgeOptions

LARGE = 500_000_000
"""Weights from which on layers are recomputed, where the options do not say."""
_HALF_SCALE = 1024.0
"""Keeps gradients inside a network of float16 from vanishing, as a scaler of losses does outside."""

Columns = Callable[[Tensor, slice], Tensor]
"""Rows ``(n ...)``, and which of all rows they are -> ``(n, k)``: the score that counts, then its parts. Rows do not
see each other."""


class Judge(nn.Module):
    """A frozen network that scores rows one by one.

    The gradient of a score is computed with the score. So the network's activations, and its weights when it is held on
    the CPU, are gone before anything else of the run's backward begins, and rows that are judged in turn need the
    memory of one.

    Args:
        network: frozen, where it lives.
        device: where it works.
        away: it lives elsewhere: its weights are copied to the device for every use.
    """

    def __init__(self, network: nn.Module, device: torch.device, *, away: bool = False) -> None:
        super().__init__()
        self.network, self._device, self._away = network, device, away
        self._recomputes = False
        self.eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, as far as they are not quantised."""
        return next(p.dtype for p in self.network.parameters() if p.is_floating_point())

    def hold(self, options: JudgeOptions) -> Judge:
        """As the options say. Where rewards share it, it recomputes when one of them asks for it."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        size = sum(parameter.numel() for parameter in self.network.parameters())
        wanted = size >= LARGE if options.checkpointing is None else options.checkpointing
        if wanted and not self._recomputes:
            recompute_layers(self.network, (GradientCheckpointingLayer,))
            self._recomputes = True
        return self

    def score(self, columns: Columns, rows: Tensor, at_once: int) -> Tensor:
        """``(n, k)``, of which column 0 carries the gradient with respect to the rows.

        Args:
            columns: computes them by :attr:`network`.
            rows: ``(n ...)``.
            at_once: how many rows are judged together.
        """
        starts = range(0, len(rows), at_once)
        found = [self._scored(columns, rows[start : start + at_once], start) for start in starts]
        return torch.cat(found)

    def _scored(self, columns: Columns, rows: Tensor, start: int) -> Tensor:
        which = slice(start, start + len(rows))
        if torch.is_grad_enabled() and rows.requires_grad:
            score, parts = _Scored.apply(rows, self, columns, which)
            return torch.cat([score[:, None], parts], 1)
        with torch.no_grad():
            return self._at_work(columns, rows, which, False)[0]

    def _at_work(self, columns: Columns, rows: Tensor, which: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        """On its device, whatever its home."""
        if not self._away:
            return self(columns, rows, which, graded)
        weights = chain(self.network.named_parameters("network"), self.network.named_buffers("network"))
        moved = {name: tensor.to(self._device, non_blocking=True) for name, tensor in weights}
        return torch.func.functional_call(self, moved, (columns, rows, which, graded))

    def forward(self, columns: Columns, rows: Tensor, which: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        """Columns without their graph and, if so asked, the gradient of column 0 with respect to the rows."""
        if not graded:
            return columns(rows, which), None
        scale = _HALF_SCALE if self.dtype == torch.float16 else 1.0
        with torch.enable_grad():
            leaf = rows.detach().requires_grad_()
            found = columns(leaf, which)
            (gradient,) = torch.autograd.grad(found[:, 0].sum() * scale, leaf)
        return found.detach(), gradient / scale


class _Scored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, judge: Judge, columns: Columns, which: slice) -> tuple[Tensor, Tensor]:
        found, gradient = judge._at_work(columns, rows, which, True)
        assert gradient is not None
        ctx.save_for_backward(gradient)
        score, parts = found[:, 0].clone(), found[:, 1:].clone()
        ctx.mark_non_differentiable(parts)
        return score, parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        factor = upstream.reshape(-1, *[1] * (gradient.ndim - 1))
        return (gradient * factor).to(gradient.dtype), None, None, None
