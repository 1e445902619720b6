"""The three networks of VideoCrafter, put together from diffusers and open_clip, and the few pieces that differ.

``docs/adr/0010-videocrafter-network.md`` says what is shared and why. Everything is built on the current device, so
that ``with torch.device("meta")`` costs no memory.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vader import sdk
from vader_videocrafter.layout import TextLayout, UNetLayout, VAELayout

VAE_SCALE = 0.18215
"""Latents are the first stage's times this (``scale_factor`` of every published configuration)."""


class TimeAndFps(nn.Module):
    """The sum of the embeddings of timestep and frame rate, in the place of diffusers' ``time_embedding``.

    The UNet hands its argument ``timestep_cond`` to this place, which is how the frame rate comes here.

    Args:
        channels: of the sinusoidal embedding, the UNet's first level.
        width: of the result.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.sinusoid = Timesteps(channels, True, 0)
        self.time = TimestepEmbedding(channels, width)
        self.fps = TimestepEmbedding(channels, width)

    def forward(self, sample: Tensor, fps: Tensor) -> Tensor:
        """``(b channels)`` and ``(b,)`` -> ``(b width)``."""
        embedded: Tensor = self.time(sample) + self.fps(self.sinusoid(fps).to(sample.dtype))
        return embedded


class NoTemporalConv(nn.Module):
    """In the place of diffusers' temporal convolution, for networks that have none."""

    def forward(self, hidden_states: Tensor, num_frames: int = 1) -> Tensor:
        """Unchanged."""
        return hidden_states


class Distances(nn.Module):
    """One learnt vector per distance between two frames, distances beyond ``longest`` sharing the last one.

    Args:
        longest: distance in frames.
        width: of a vector.
    """

    def __init__(self, longest: int, width: int) -> None:
        super().__init__()
        self.embeddings_table = nn.Parameter(torch.zeros(2 * longest + 1, width))

    def forward(self, frames: int) -> Tensor:
        """``(frames, frames, width)``: at ``[i, j]`` the vector for the way from frame i to frame j."""
        longest = self.embeddings_table.shape[0] // 2
        index = torch.arange(frames, device=self.embeddings_table.device)
        return self.embeddings_table[(index[None] - index[:, None]).clamp(-longest, longest) + longest]


class RelativeAttention(nn.Module):
    """Self-attention that knows how far frames are apart (Shaw et al. 2018, arXiv 1803.02155, eq. 3 and 4).

    A diffusers attention processor. The whole logit, positions included, is scaled by the head's width.

    Args:
        longest: see :class:`Distances`.
        head_dim: width of a head.
    """

    def __init__(self, longest: int, head_dim: int) -> None:
        super().__init__()
        self.relative_position_k = Distances(longest, head_dim)
        self.relative_position_v = Distances(longest, head_dim)

    def forward(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """``(b f d)`` -> ``(b f d)``; the interface's last two arguments are None in temporal attention."""
        assert encoder_hidden_states is None
        assert attention_mask is None
        layers = (attention.to_q, attention.to_k, attention.to_v)
        q, k, v = (layer(hidden_states).unflatten(-1, (attention.heads, -1)) for layer in layers)
        frames = hidden_states.shape[1]
        logits = torch.einsum("bihd,bjhd->bhij", q, k) + torch.einsum(
            "bihd,ijd->bhij", q, self.relative_position_k(frames)
        )
        weights = (logits * attention.scale).softmax(dim=-1)
        mixed = torch.einsum("bhij,bjhd->bihd", weights, v)
        mixed = mixed + torch.einsum("bhij,ijd->bihd", weights, self.relative_position_v(frames))
        output: Tensor = attention.to_out[0](mixed.flatten(-2))
        return output


def build_unet(layout: UNetLayout) -> UNet3DConditionModel:
    """The denoiser."""
    with_attention = [("CrossAttn" if attention else "") for attention in layout.attention]
    unet = UNet3DConditionModel(
        in_channels=layout.latent_channels,
        out_channels=layout.latent_channels,
        down_block_types=tuple(f"{kind}DownBlock3D" for kind in with_attention),
        up_block_types=tuple(f"{kind}UpBlock3D" for kind in reversed(with_attention)),
        block_out_channels=layout.channels,
        layers_per_block=layout.layers,
        cross_attention_dim=layout.context_dim,
        attention_head_dim=layout.head_dim,
    )
    if layout.fps:
        unet.time_embedding = TimeAndFps(layout.channels[0], 4 * layout.channels[0])
    if not layout.temporal_conv:
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            block.temp_convs = nn.ModuleList(NoTemporalConv() for _ in block.temp_convs)
    if layout.relative_length is not None:
        temporal = [module for module in unet.modules() if isinstance(module, TransformerTemporalModel)]
        for attention in (a for module in temporal for a in module.modules() if isinstance(a, Attention)):
            attention.set_processor(RelativeAttention(layout.relative_length, layout.head_dim))
    return unet


def build_vae(layout: VAELayout) -> AutoencoderKL:
    """The first stage."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(layout.channels),
        up_block_types=("UpDecoderBlock2D",) * len(layout.channels),
        block_out_channels=layout.channels,
        layers_per_block=layout.layers,
        latent_channels=layout.latent_channels,
        scaling_factor=VAE_SCALE,
    )


def build_text_encoder(layout: TextLayout) -> TextTransformer:
    """OpenCLIP's text encoder up to its penultimate layer, then its final norm: tokens ``(b n)`` -> ``(b n d)``."""
    return TextTransformer(
        context_length=layout.length,
        vocab_size=layout.vocabulary,
        width=layout.width,
        heads=layout.heads,
        layers=layout.layers - 1,
        pool_type="none",
        proj_type="none",
    )


def pixels(vae: AutoencoderKL, latents: Tensor, at_once: int) -> Tensor:
    """Decode frame by frame; in backward too no more frames are held than are decoded at once.

    Args:
        vae: the first stage.
        latents: ``(b c f h w)``, as the denoiser sees them, in the first stage's dtype.
        at_once: frames decoded together.

    Returns:
        ``(b f 3 h w)`` about [-1, 1], not clamped.
    """
    images = latents.transpose(1, 2).flatten(0, 1) / VAE_SCALE
    parts = torch.split(images, at_once)
    if torch.is_grad_enabled() and latents.requires_grad and len(parts) > 1:
        decoded = [checkpoint(_decoded, vae, part, use_reentrant=False) for part in parts]
    else:
        decoded = [_decoded(vae, part) for part in parts]
    frames = torch.cat(decoded)
    return frames.view(latents.shape[0], latents.shape[2], *frames.shape[1:])


def _decoded(vae: AutoencoderKL, images: Tensor) -> Any:
    return vae.decode(images, return_dict=False)[0]


def recompute_blocks(unet: UNet3DConditionModel) -> None:
    """Recompute each residual block, temporal convolution and transformer in backward (non-reentrant).

    diffusers has no gradient checkpointing for this network.
    """
    sdk.recompute_layers(unet, (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel))
