"""The decoder of HunyuanVideo 1.5."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from vader.backbones.autoencoders.stages import BACK, Closing, Convolve, Opening, after_first, keep_last, with_context
from vader.backbones.streaming import EVERYTHING, Context, Flow, Stage


class HunyuanConv(nn.Module):
    """A ``HunyuanVideo15CausalConv3d`` on frames that come with those before them."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.conv, self.mode = module.conv, module.pad_mode
        self.padding = (*module.time_causal_padding[:4], 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """``(b c f+2 h w) -> (b c f h w)``."""
        padded: Tensor = self.conv(functional.pad(x, self.padding, mode=self.mode))
        return padded


class HunyuanIn(Convolve):
    """The first convolution, and the latents' channels repeated."""

    def __init__(self, conv: nn.Module, repeat: int) -> None:
        super().__init__(conv, begin=after_first)
        self.repeat = repeat

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        (out, *rest), kept = super().forward(flow, context, first)
        return (out + flow[0].repeat_interleave(self.repeat, dim=1), *rest), kept


class HunyuanAttention(Stage):
    """Attention to a frame and all before it. What is kept is what came in, of every chunk."""

    depth = EVERYTHING
    margin = None

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x, block = flow[0], self.block
        assert x.shape[2] == 1, x.shape
        seen = block.norm(with_context(x, context))
        query, key, value = block.to_q(seen[:, :, -1:]), block.to_k(seen), block.to_v(seen)
        cells = [tensor.flatten(2).transpose(1, 2).unsqueeze(1) for tensor in (query, key, value)]
        found = functional.scaled_dot_product_attention(*cells)
        h = found.squeeze(1).transpose(1, 2).reshape(query.shape)
        return (block.proj_out(h) + x, *flow[1:]), self.carry(flow, context, first)

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return (*context, flow[0])


class HunyuanUpsample(Stage):
    """A ``HunyuanVideo15Upsample``: channels become frames, height and width; the clip's first frame stays one."""

    depth = BACK
    space = 2
    margin = 2  # one cell before upsampling

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.convolve = Convolve(HunyuanConv(module.conv), begin=after_first)
        self.rate = 2 if module.add_temporal_upsample else 1
        self.repeats, self.rearrange = module.repeats, module._dcae_upsample_rearrange

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        (h, *rest), kept = self.convolve(flow, context, first)
        alone = first and self.rate == 2
        rate = 1 if alone else self.rate
        if not alone and self.rate == 1:
            around = self.rearrange(x.repeat_interleave(self.repeats, dim=1), r1=1)
        else:
            around = self.rearrange(x, r1=rate).repeat_interleave(self.repeats // (2 if alone else 1), dim=1)
        out = self.rearrange(h, r1=rate)
        return ((out[:, : out.shape[1] // 2] if alone else out) + around, *rest), kept

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return keep_last(flow[0], context)


def _residual(block: Any) -> list[Stage]:
    return [
        Opening(HunyuanConv(block.conv1), block.norm1, block.nonlinearity, after_first),
        Closing(block.conv_shortcut, HunyuanConv(block.conv2), block.norm2, block.nonlinearity, after_first),
    ]


def chain(vae: Any) -> list[Stage]:
    """The stages of its decoder, in order."""
    decoder = vae.decoder
    first, *others = decoder.mid_block.resnets
    stages: list[Stage] = [HunyuanIn(HunyuanConv(decoder.conv_in), decoder.repeat), *_residual(first)]
    for attention, block in zip(decoder.mid_block.attentions, others, strict=True):
        stages += [HunyuanAttention(attention)] if attention is not None else []
        stages += _residual(block)
    for up_block in decoder.up_blocks:
        stages += [stage for each in up_block.resnets for stage in _residual(each)]
        stages += map(HunyuanUpsample, up_block.upsamplers or ())
    return [*stages, Convolve(HunyuanConv(decoder.conv_out), decoder.norm_out, decoder.conv_act, after_first)]
