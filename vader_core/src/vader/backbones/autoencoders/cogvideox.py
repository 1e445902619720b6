"""The decoder of CogVideoX."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vader.backbones.autoencoders.stages import BACK, Fork, Pointwise, keep_last
from vader.backbones.streaming import Context, Flow, Stage


class CogVideoXConvolve(Stage):
    """Norm by the latents, activation and a causal convolution; the norm looks at a whole chunk.

    Args:
        conv: the convolution.
        norm: before it; None for neither norm nor activation.
        activate: after the norm.
        role: ``open`` sets by what comes in, ``close`` adds it.
        shortcut: what it goes through then.
    """

    depth = BACK
    margin: int | None = 1

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        activate: nn.Module | None = None,
        role: str = "",
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.activate, self.role, self.shortcut = conv, norm, activate, role, shortcut
        self.whole = norm is not None
        self.margin = None if self.whole else 1

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`; the flow ends with the latents."""
        x, *rest = flow
        out, kept = self.conv(self._normed(flow), conv_cache=context[0] if context else None)
        if self.role == "open":
            return (out, x, *rest), (kept,)
        if self.role == "close":
            around, *rest = rest
            out = out + (around if self.shortcut is None else self.shortcut(around))
        return (out, *rest), (kept,)

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return keep_last(self._normed(flow), context)

    def _normed(self, flow: Flow) -> Tensor:
        if self.norm is None or self.activate is None:
            return flow[0]
        normed: Tensor = self.activate(self.norm(flow[0], flow[-1])[0])
        return normed


class CogVideoXUpsample(Pointwise):
    """A ``CogVideoXUpsample3D``: twice the frames, where it upsamples in time, and twice the height and width."""

    space = 2
    margin = 1

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.rate = 2 if module.compress_time else 1


class Drop(Stage):
    """The hidden state alone goes on."""

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        return flow[:1], ()


def _residual(block: Any) -> list[Stage]:
    shortcut = getattr(block, "conv_shortcut", None)
    return [
        CogVideoXConvolve(block.conv1, block.norm1, block.nonlinearity, "open"),
        CogVideoXConvolve(block.conv2, block.norm2, block.nonlinearity, "close", shortcut),
    ]


def chain(vae: Any) -> list[Stage]:
    """The stages of its decoder, in order."""
    decoder = vae.decoder
    stages: list[Stage] = [Pointwise(vae.post_quant_conv)] if vae.post_quant_conv is not None else []
    stages += [Fork(), CogVideoXConvolve(decoder.conv_in)]
    for block in (decoder.mid_block, *decoder.up_blocks):
        stages += [stage for each in block.resnets for stage in _residual(each)]
        stages += map(CogVideoXUpsample, getattr(block, "upsamplers", None) or ())
    return [*stages, CogVideoXConvolve(decoder.conv_out, decoder.norm_out, decoder.conv_act), Drop()]
