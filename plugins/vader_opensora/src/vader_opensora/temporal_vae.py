"""The temporal half of Open-Sora 1.2's VAE: it compresses time, causally, after MAGVIT-v2 (arXiv 2310.05737)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional


class TemporalVAE(nn.Module):
    """``(b c f h w)`` to fewer frames of the same size, and back.

    A clip whose length is no multiple of :attr:`factor` gets frames of zeros in front, which are dropped again.

    Args:
        channels: of input, latents and output.
        filters: channels of the widest (in time) level, times its multiplier.
        num_res_blocks: residual blocks of a level.
        channel_multipliers: of the levels.
        temporal_downsample: whether time is halved between a level and the next.
        num_groups: of the group norms.
    """

    def __init__(
        self,
        channels: int = 4,
        filters: int = 128,
        num_res_blocks: int = 4,
        channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.factor = 2 ** sum(map(bool, temporal_downsample))
        widths = [filters * multiplier for multiplier in channel_multipliers]
        self.encoder = Encoder(channels, 2 * channels, widths, num_res_blocks, temporal_downsample, num_groups)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = CausalConv3d(channels, channels, 1)
        self.decoder = Decoder(channels, widths, num_res_blocks, temporal_downsample, num_groups)

    def latent_frames(self, frames: int) -> int:
        """Latent frames of ``frames`` frames."""
        return -(-frames // self.factor)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """``(b c f h w)`` to the distribution of ``(b c latent_frames h w)``."""
        padded = functional.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        return DiagonalGaussianDistribution(self.quant_conv(self.encoder(padded)))

    def decode(self, z: Tensor, frames: int) -> Tensor:
        """``(b c latent_frames h w)`` to ``(b c f h w)``, without the ``-frames % factor`` padded ones in front."""
        decoded: Tensor = self.decoder(self.post_quant_conv(z))
        return decoded[:, :, -frames % self.factor :]


class CausalConv3d(nn.Module):
    """Convolution that sees no later frame: all padding in time is in front."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, max(kernel - stride, 0), 0)
        self.conv = nn.Conv3d(channels, out, kernel, stride=(stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(functional.pad(x, self.padding))
        return output


class ResBlock(nn.Module):
    """Two convolutions, each after group norm and SiLU, around a shortcut."""

    def __init__(self, channels: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = CausalConv3d(channels, out, 3, bias=False)
        self.norm2 = nn.GroupNorm(groups, out)
        self.conv2 = CausalConv3d(out, out, 3, bias=False)
        self.conv3 = CausalConv3d(channels, out, 1, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(x)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (x if self.conv3 is None else self.conv3(x))


def _res_blocks(widths: Sequence[int], groups: int) -> nn.ModuleList:
    """Residual blocks from each width to the next."""
    return nn.ModuleList(ResBlock(before, after, groups) for before, after in pairwise(widths))


class Encoder(nn.Module):
    """From frames to moments of the latents."""

    def __init__(
        self, channels: int, out: int, widths: Sequence[int], blocks: int, halved: Sequence[bool], groups: int
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(channels, widths[0], 3, bias=False)
        entries = [widths[0], *widths[:-1]]
        levels = zip(entries, widths, strict=True)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks([entry, *[width] * blocks], groups) for entry, width in levels
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, stride=2) if half else nn.Identity()
            for width, half in zip(widths, halved, strict=False)
        )
        self.res_blocks = _res_blocks([widths[-1]] * (blocks + 1), groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            for block in blocks:
                x = block(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        for block in self.res_blocks:
            x = block(x)
        output: Tensor = self.conv2(functional.silu(self.norm1(x)))
        return output


def _unfolded(x: Tensor, channels: int) -> Tensor:
    """``(b channels*k f h w)`` to ``(b channels f*k h w)``: what is in the channels too many becomes time."""
    return x.unflatten(1, (channels, -1)).movedim(2, 3).flatten(2, 3)


class Decoder(nn.Module):
    """From latents to frames."""

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, halved: Sequence[bool], groups: int) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(channels, widths[-1], 3)
        self.res_blocks = _res_blocks([widths[-1]] * (blocks + 1), groups)
        entries = [*widths[1:], widths[-1]]
        levels = zip(entries, widths, strict=True)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks([entry, *[width] * blocks], groups) for entry, width in levels
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if half else nn.Identity()
            for width, half in zip(widths[1:], halved, strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        for level in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[level]:
                x = block(x)
            if level > 0:
                x = _unfolded(self.conv_blocks[level - 1](x), x.shape[1])
        output: Tensor = self.conv_out(functional.silu(self.norm1(x)))
        return output
