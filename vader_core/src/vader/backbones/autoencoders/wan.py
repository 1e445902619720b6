"""The decoder of Wan 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader.backbones.autoencoders.stages import (
    BACK,
    Attention,
    Closing,
    Convolve,
    Fork,
    Opening,
    Pointwise,
    after_zeros,
    keep_last,
    with_context,
)
from vader.backbones.streaming import Context, Flow, Stage, frame_by_frame


class WanConv(nn.Module):
    """A ``WanCausalConv3d`` on frames that come with those before them."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.conv = conv
        self.padding = (0, conv._padding[2], conv._padding[0])

    def forward(self, x: Tensor) -> Tensor:
        """``(b c f+2 h w) -> (b c f h w)``."""
        return functional.conv3d(x, self.conv.weight, self.conv.bias, padding=self.padding)


class WanUpsample(Stage):
    """A ``WanResample``: twice the frames, where it has a convolution in time, and twice the height and width.

    The clip's first frame stays one frame, and the convolution does not see it.
    """

    space = 2
    margin = 1

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.resample = module.resample
        self.time_conv = WanConv(module.time_conv) if module.mode == "upsample3d" else None
        if self.time_conv is not None:
            self.depth, self.rate = BACK, 2

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        kept = self.carry(flow, context, first)
        if self.time_conv is not None and not first:
            h = with_context(x, context)
            missing = BACK - (h.shape[2] - x.shape[2])
            h = self.time_conv(after_zeros(h, missing) if missing else h).unflatten(1, (2, -1))
            x = torch.stack((h[:, 0], h[:, 1]), dim=3).flatten(2, 3)
        return (frame_by_frame(self._larger, x), *flow[1:]), kept

    def _larger(self, x: Tensor) -> Tensor:
        frames: Tensor = self.resample(x.transpose(1, 2).flatten(0, 1))
        return frames.reshape(len(x), -1, *frames.shape[1:]).transpose(1, 2)

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return () if first or self.time_conv is None else keep_last(flow[0], context)


class WanShortcut(Stage):
    """The way around a residual up-block (Wan 2.2)."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        h, x, *rest = flow
        return (h + self.module(x, first_chunk=first), *rest), ()


class WanPixels(Stage):
    """Pixels of patches, clamped."""

    def __init__(self, patch: int | None) -> None:
        super().__init__()
        self.space = patch or 1

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        return (unpatchify(flow[0], patch_size=self.space).clamp(-1, 1),), ()


def _residual(block: Any) -> list[Stage]:
    shortcut = None if isinstance(block.conv_shortcut, nn.Identity) else block.conv_shortcut
    return [
        Opening(WanConv(block.conv1), block.norm1, block.nonlinearity),
        Closing(shortcut, WanConv(block.conv2), block.norm2, block.nonlinearity),
    ]


def chain(vae: Any) -> list[Stage]:
    """The stages of its decoder, in order."""
    decoder = vae.decoder
    first, *others = decoder.mid_block.resnets
    stages: list[Stage] = [Pointwise(vae.post_quant_conv), Convolve(WanConv(decoder.conv_in)), *_residual(first)]
    for attention, block in zip(decoder.mid_block.attentions, others, strict=True):
        stages += [Attention(attention), *_residual(block)]
    for block in decoder.up_blocks:
        around = getattr(block, "avg_shortcut", None)
        stages += [Fork()] if around is not None else []
        stages += [stage for each in block.resnets for stage in _residual(each)]
        single = getattr(block, "upsampler", None)
        stages += map(WanUpsample, [single] if single is not None else getattr(block, "upsamplers", None) or ())
        stages += [WanShortcut(around)] if around is not None else []
    head = Convolve(WanConv(decoder.conv_out), decoder.norm_out, decoder.nonlinearity)
    return [*stages, head, WanPixels(vae.config.patch_size)]
