"""The decoders of diffusers' causal autoencoders, as chains of stages (:mod:`vader.backbones.streaming`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader.backbones.streaming import EVERYTHING, Context, Flow, Stage, frame_by_frame

_BACK = 2
"""Frames before its own that a convolution of three frames sees."""


def _seen(x: Tensor, context: Context) -> Tensor:
    """A chunk after the frames before it."""
    return torch.cat([*context, x], dim=2) if context else x


def _last(x: Tensor, context: Context) -> Context:
    """The last frames, for the next chunk."""
    return (x[:, :, -_BACK:] if x.shape[2] >= _BACK or not context else _seen(x, context)[:, :, -_BACK:],)


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


class Convolve(Stage):
    """Norm, activation and a causal convolution over three frames.

    What is kept for the next chunk is raw: views of what came in, which is held anyway.

    Args:
        convolve: the convolution of ``(b c f h w)`` whose first two frames are the context.
        norm: before it, cell by cell; None for neither norm nor activation.
        activate: after the norm.
        begin: what stands before the clip's first frame: zeros, or that frame again.
    """

    depth = _BACK
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
        self.begin = begin or _zeros

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        h = _seen(x, context)
        if self.norm is not None:
            h = frame_by_frame(self._normed, h)
        missing = _BACK - (h.shape[2] - x.shape[2])
        out = self.convolve(self.begin(h, missing) if missing else h)
        return (out, *flow[1:]), _last(x, context)

    def _normed(self, x: Tensor) -> Tensor:
        normed: Tensor = self.activate(self.norm(x))  # type: ignore[misc]
        return normed

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return _last(flow[0], context)


def _zeros(x: Tensor, count: int) -> Tensor:
    return functional.pad(x, (0, 0, 0, 0, count, 0))


def _repeated(x: Tensor, count: int) -> Tensor:
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x], dim=2)


class Join(Stage):
    """Adds what was set by, through a shortcut."""

    def __init__(self, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        h, x, *rest = flow
        return (h + (x if self.shortcut is None else self.shortcut(x)), *rest), ()


class Closing(Convolve):
    """The last convolution of a residual block, and the sum."""

    def __init__(self, shortcut: nn.Module | None, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.join = Join(shortcut)

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        flow, context = super().forward(flow, context, first)
        return self.join(flow, (), first)[0], context


class Opening(Convolve):
    """The first convolution of a residual block; what comes in is set by."""

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        (h, *rest), context = super().forward(flow, context, first)
        return (h, flow[0], *rest), context


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


# Wan 2.1 and 2.2


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
            self.depth, self.rate = _BACK, 2

    def forward(self, flow: Flow, context: Context, first: bool) -> tuple[Flow, Context]:
        """See :class:`Stage`."""
        x = flow[0]
        kept = self.carry(flow, context, first)
        if self.time_conv is not None and not first:
            h = _seen(x, context)
            missing = _BACK - (h.shape[2] - x.shape[2])
            h = self.time_conv(_zeros(h, missing) if missing else h).unflatten(1, (2, -1))
            x = torch.stack((h[:, 0], h[:, 1]), dim=3).flatten(2, 3)
        return (frame_by_frame(self._larger, x), *flow[1:]), kept

    def _larger(self, x: Tensor) -> Tensor:
        frames: Tensor = self.resample(x.transpose(1, 2).flatten(0, 1))
        return frames.reshape(len(x), -1, *frames.shape[1:]).transpose(1, 2)

    def carry(self, flow: Flow, context: Context, first: bool) -> Context:
        """See :class:`Stage`."""
        return () if first or self.time_conv is None else _last(flow[0], context)


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


def _wan_residual(block: Any) -> list[Stage]:
    shortcut = None if isinstance(block.conv_shortcut, nn.Identity) else block.conv_shortcut
    return [
        Opening(WanConv(block.conv1), block.norm1, block.nonlinearity),
        Closing(shortcut, WanConv(block.conv2), block.norm2, block.nonlinearity),
    ]


def _wan(vae: Any) -> list[Stage]:
    decoder = vae.decoder
    first, *others = decoder.mid_block.resnets
    stages: list[Stage] = [Pointwise(vae.post_quant_conv), Convolve(WanConv(decoder.conv_in)), *_wan_residual(first)]
    for attention, block in zip(decoder.mid_block.attentions, others, strict=True):
        stages += [Attention(attention), *_wan_residual(block)]
    for block in decoder.up_blocks:
        around = getattr(block, "avg_shortcut", None)
        stages += [Fork()] if around is not None else []
        stages += [stage for each in block.resnets for stage in _wan_residual(each)]
        single = getattr(block, "upsampler", None)
        stages += map(WanUpsample, [single] if single is not None else getattr(block, "upsamplers", None) or ())
        stages += [WanShortcut(around)] if around is not None else []
    head = Convolve(WanConv(decoder.conv_out), decoder.norm_out, decoder.nonlinearity)
    return [*stages, head, WanPixels(vae.config.patch_size)]


# CogVideoX


class CogVideoXConvolve(Stage):
    """Norm by the latents, activation and a causal convolution; the norm looks at a whole chunk.

    Args:
        conv: the convolution.
        norm: before it; None for neither norm nor activation.
        activate: after the norm.
        role: ``open`` sets by what comes in, ``close`` adds it.
        shortcut: what it goes through then.
    """

    depth = _BACK
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
        return _last(self._normed(flow), context)

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


def _cogvideox_residual(block: Any) -> list[Stage]:
    shortcut = getattr(block, "conv_shortcut", None)
    return [
        CogVideoXConvolve(block.conv1, block.norm1, block.nonlinearity, "open"),
        CogVideoXConvolve(block.conv2, block.norm2, block.nonlinearity, "close", shortcut),
    ]


def _cogvideox(vae: Any) -> list[Stage]:
    decoder = vae.decoder
    stages: list[Stage] = [Pointwise(vae.post_quant_conv)] if vae.post_quant_conv is not None else []
    stages += [Fork(), CogVideoXConvolve(decoder.conv_in)]
    for block in (decoder.mid_block, *decoder.up_blocks):
        stages += [stage for each in block.resnets for stage in _cogvideox_residual(each)]
        stages += map(CogVideoXUpsample, getattr(block, "upsamplers", None) or ())
    return [*stages, CogVideoXConvolve(decoder.conv_out, decoder.norm_out, decoder.conv_act), Drop()]


# HunyuanVideo 1.5


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
        super().__init__(conv, begin=_repeated)
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
        seen = block.norm(_seen(x, context))
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

    depth = _BACK
    space = 2
    margin = 2  # one cell before upsampling

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.convolve = Convolve(HunyuanConv(module.conv), begin=_repeated)
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
        return _last(flow[0], context)


def _hunyuan_residual(block: Any) -> list[Stage]:
    return [
        Opening(HunyuanConv(block.conv1), block.norm1, block.nonlinearity, _repeated),
        Closing(block.conv_shortcut, HunyuanConv(block.conv2), block.norm2, block.nonlinearity, _repeated),
    ]


def _hunyuan15(vae: Any) -> list[Stage]:
    decoder = vae.decoder
    first, *others = decoder.mid_block.resnets
    stages: list[Stage] = [HunyuanIn(HunyuanConv(decoder.conv_in), decoder.repeat), *_hunyuan_residual(first)]
    for attention, block in zip(decoder.mid_block.attentions, others, strict=True):
        stages += [HunyuanAttention(attention)] if attention is not None else []
        stages += _hunyuan_residual(block)
    for up_block in decoder.up_blocks:
        stages += [stage for each in up_block.resnets for stage in _hunyuan_residual(each)]
        stages += map(HunyuanUpsample, up_block.upsamplers or ())
    return [*stages, Convolve(HunyuanConv(decoder.conv_out), decoder.norm_out, decoder.conv_act, _repeated)]


CHAINS: Mapping[str, Callable[[Any], list[Stage]]] = {
    "AutoencoderKLWan": _wan,
    "AutoencoderKLCogVideoX": _cogvideox,
    "AutoencoderKLHunyuanVideo15": _hunyuan15,
}
"""Class of diffusers -> the stages of its decoder."""
TILED = frozenset({"AutoencoderKLWan", "AutoencoderKLHunyuanVideo15"})
"""Those whose layers, from the first upsampling on, see no more than their neighbourhood."""
