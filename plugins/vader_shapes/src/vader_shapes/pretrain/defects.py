"""Turns rendered clips into clips with the faults that generators make, so that the scorer is useful on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from vader_shapes.pretrain.data import Clips
from vader_shapes.pretrain.vae import decode, encode


def latent_noise(vae: AutoencoderKLWan, clips: Clips, strongest: float, seed: int) -> Tensor:
    """VAE round trips with noise of up to `strongest` latent standard deviations, `(n f c h w)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    mean, _ = encode(vae, clips.frames)
    level = strongest * torch.rand(len(mean), 1, 1, 1, 1, generator=generator)
    scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return decode(vae, mean + level * scale * torch.randn(mean.shape, generator=generator))


def distort(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, colour shift, pixel noise and a faint second clip, each on some of the clips.

    Args:
        frames: `(b f c h w)` in [0, 1].

    Returns:
        The same shape and range; every clip still shows its attributes.
    """
    b = len(frames)

    def chosen(share: float) -> Tensor:
        return (torch.rand(b, 1, 1, 1, 1, generator=generator) < share).float()

    blurred = F.avg_pool2d(F.pad(frames.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1).view_as(frames)
    frames = torch.lerp(frames, blurred, chosen(0.3) * torch.rand(b, 1, 1, 1, 1, generator=generator))
    other = frames[torch.randperm(b, generator=generator)]
    frames = torch.lerp(frames, other, chosen(0.3) * 0.35 * torch.rand(b, 1, 1, 1, 1, generator=generator))
    gain = 1 + 0.15 * chosen(0.5) * torch.randn(b, 1, 3, 1, 1, generator=generator).clamp(-2, 2)
    shift = 0.05 * chosen(0.5) * torch.randn(b, 1, 3, 1, 1, generator=generator).clamp(-2, 2)
    noise = 0.06 * chosen(0.4) * torch.randn(frames.shape, generator=generator)
    return (frames * gain + shift + noise).clamp(0, 1)


def thin(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the time, a few frames of a window of the clips: rewards may be given only some frames.

    Args:
        frames: `(b f c h w)`, f >= 5.

    Returns:
        `(b n c h w)`, n from 3 to f, in the order of time; the window spans at least half of the clip.
    """
    length = frames.shape[1]
    if torch.rand((), generator=generator) < 0.5:
        return frames
    span = int(torch.randint(length // 2 + 1, length + 1, (), generator=generator))
    first = int(torch.randint(0, length - span + 1, (), generator=generator))
    count = int(torch.randint(3, span + 1, (), generator=generator))
    return frames[:, torch.linspace(first, first + span - 1, count).round().long()]
