"""The video autoencoder of Open-Sora 1.2: a per-frame VAE, and a causal one in time on top of it.

Parameter names and numbers are those of ``hpcai-tech/OpenSora-VAE-v1.2`` (arXiv 2412.20404, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from vader_opensora.temporal_vae import TemporalVAE

SPATIAL: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
}
"""The per-frame VAE of the published checkpoint, as diffusers has it (SDXL's)."""
SCALING = 0.18215
"""Factor between the two VAEs; the reference has it in its code, not in the configuration."""
BATCH = 4
"""Frames that go through the per-frame VAE at once (the reference's micro-batch)."""


class SpatialVAE(nn.Module):
    """Holds diffusers' per-frame VAE under the name that the checkpoint has."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = AutoencoderKL(**config)


class OpenSoraVAE(nn.Module):
    """Pixels to normalised latents and back.

    Time is cut in windows of ``micro_frame_size`` frames that know nothing of one another. Within a window every pixel
    depends on all of it, because the temporal VAE's group norms take their statistics over it.

    Args:
        spatial: of diffusers' ``AutoencoderKL``.
        temporal: of :class:`vader_opensora.temporal_vae.TemporalVAE`.
        micro_frame_size: frames of a window.
        shift: mean of the latents, by channel.
        scale: standard deviation of the latents, by channel.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        spatial: Mapping[str, Any] = SPATIAL,
        temporal: Mapping[str, Any] | None = None,
        micro_frame_size: int = 17,
        shift: Sequence[float] = (-0.1, 0.34, 0.27, 0.98),
        scale: Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()
        self.spatial_vae = SpatialVAE(spatial)
        self.temporal_vae = TemporalVAE(**(temporal or {}))
        self.micro_frame_size = micro_frame_size
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, 1, 1, 1))
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1, 1))

    @property
    def window(self) -> int:
        """Latent frames of a whole window."""
        return self.temporal_vae.latent_frames(self.micro_frame_size)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent cell, in height and in width."""
        return int(2 ** (len(self.spatial_vae.module.config.block_out_channels) - 1))

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of ``frames`` frames."""
        whole, rest = divmod(frames, self.micro_frame_size)
        return whole * self.window + self.temporal_vae.latent_frames(rest)

    def encode(self, pixels: Tensor) -> Tensor:
        """The most likely latents.

        Args:
            pixels: ``(b 3 f h w)`` in [-1, 1].

        Returns:
            ``(b c latent_frames h/8 w/8)``, of about zero mean and unit variance.
        """
        images = pixels.transpose(1, 2).flatten(0, 1).split(BATCH)
        codes = torch.cat([self.spatial_vae.module.encode(part).latent_dist.mode() for part in images]) * SCALING
        cells = codes.unflatten(0, (pixels.shape[0], -1)).transpose(1, 2)
        windows = cells.split(self.micro_frame_size, dim=2)
        latents = torch.cat([self.temporal_vae.encode(window).mode() for window in windows], dim=2)
        return (latents - self.shift) / self.scale

    def decode(self, latents: Tensor, count: int, frames: Sequence[int] | None = None) -> Tensor:
        """Pixels of the wanted frames. Only the windows that hold them are computed, and of those only they.

        Args:
            latents: ``(b c latent_frames(count) h w)``.
            count: frames of the clip.
            frames: indices 0..count - 1, in any order; all when None.

        Returns:
            ``(b 3 f h*8 w*8)``, about [-1, 1], in the order asked for.
        """
        wanted = list(range(count)) if frames is None else list(frames)
        ordered = sorted(set(wanted))
        cells = [
            self._decode_window(latents, count, number, list(members))
            for number, members in groupby(ordered, key=lambda frame: frame // self.micro_frame_size)
        ]
        return self.to_pixels(torch.cat(cells, dim=2))[:, :, [ordered.index(frame) for frame in wanted]]

    def _decode_window(self, latents: Tensor, count: int, number: int, members: Sequence[int]) -> Tensor:
        """``(b 4 f h w)``, what the per-frame VAE wants for these frames of window ``number``."""
        first = number * self.micro_frame_size
        held = latents[:, :, number * self.window : (number + 1) * self.window]
        cells: Tensor = self.temporal_vae.decode(
            held * self.scale + self.shift, min(self.micro_frame_size, count - first)
        )
        return cells[:, :, [frame - first for frame in members]]

    def to_pixels(self, cells: Tensor) -> Tensor:
        """``(b 4 f h w)`` between the two VAEs to ``(b 3 f h*8 w*8)``, frame by frame."""
        images = (cells / SCALING).transpose(1, 2).flatten(0, 1).split(BATCH)
        pixels = torch.cat([self.spatial_vae.module.decode(part, return_dict=False)[0] for part in images])
        return pixels.unflatten(0, (cells.shape[0], -1)).transpose(1, 2)
