"""Stages that more than one decoder is made of, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader.backbones.streaming import Context, Flow, Stage, frame_by_frame

BACK = 2
"""Frames before its own that a convolution of three frames sees."""


def with_context(x: Tensor, context: Context) -> Tensor:
    """A chunk after the frames before it."""
    return torch.cat([*context, x], dim=2) if context else x


def keep_last(x: Tensor, context: Context) -> Context:
    """The last frames, for the next chunk."""
    return (x[:, :, -BACK:] if x.shape[2] >= BACK or not context else with_context(x, context)[:, :, -BACK:],)


class Pointwise(Stage):
    """A module that sees one cell at a time."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        return (self.module(flow[0]), *flow[1:]), ()


class Fork(Stage):
    """Sets the hidden state by, for a stage that takes it up again."""

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        return (flow[0], *flow), ()


def after_zeros(x: Tensor, count: int) -> Tensor:
    """A chunk after ``count`` frames of zeros."""
    return functional.pad(x, (0, 0, 0, 0, count, 0))


def after_first(x: Tensor, count: int) -> Tensor:
    """A chunk after its first frame, ``count`` times."""
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x], dim=2)


class Convolve(Stage):
    """Norm, activation and a causal convolution over three frames.

    What is kept for the next chunk is raw: views of what came in, which is held anyway.

    Args:
        convolve: the convolution of ``(b c f h w)`` whose first two frames are the context.
        norm: before it, cell by cell; None for neither norm nor activation.
        activate: after the norm.
        begin: what stands before the clip's first frame: zeros, or that frame again.
    """

    depth = BACK
    margin = 1

    def __init__(
        self,
        convolve: nn.Module,
        norm: nn.Module | None = None,
        activate: nn.Module | None = None,
        begin: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.convolve, self.norm, self.activate = convolve, norm, activate
        self.begin = begin or after_zeros

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        h = with_context(x, context)
        if self.norm is not None:
            h = frame_by_frame(self._normed, h)
        missing = BACK - (h.shape[2] - x.shape[2])
        out = self.convolve(self.begin(h, missing) if missing else h)
        return (out, *flow[1:]), keep_last(x, context)

    def _normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.activate(self.norm(x))  # type: ignore[misc]
        return normed

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return keep_last(flow[0], context)


class Join(Stage):
    """Adds what was set by, through a shortcut."""

    def __init__(self, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        h, x, *rest = flow
        return (h + (x if self.shortcut is None else self.shortcut(x)), *rest), ()


class Opening(Convolve):
    """The first convolution of a residual block; what comes in is set by."""

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        (h, *rest), context = super().forward(flow, context, first)
        return (h, flow[0], *rest), context


class Closing(Convolve):
    """The last convolution of a residual block, and the sum."""

    def __init__(self, shortcut: nn.Module | None, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.join = Join(shortcut)

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        flow, context = super().forward(flow, context, first)
        return self.join(flow, (), first)[0], context


class Attention(Pointwise):
    """Attention inside a frame."""

    margin = None


class Image(Stage):
    """An autoencoder of images, ``(n c h w)``, as one stage."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        return (self.vae.decode(flow[0], return_dict=False)[0],), ()
