"""Turns rendered clips into clips with the faults that generators make, so that the scorer is useful on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from vader_shapes.pretrain.data import Clips
from vader_shapes.pretrain.vae import decode, encode
from vader_shapes.world import FRAMES


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


def attacked(frames: Tensor, loss: Callable[[Tensor], Tensor], strongest: float, generator: torch.Generator) -> Tensor:
    """Clips moved a little to where they fool the scorer most: one step along its own gradient, from near each clip.

    A scorer trained on such clips (adversarial training, Madry et al., arXiv 1706.06083, with the single step of Wong
    et al., arXiv 2001.03994) has gradients that draw what it reads, instead of patterns that please it (Santurkar et
    al., arXiv 1906.09453): those are what alignment follows.

    Args:
        frames: `(b f c h w)` in [0, 1].
        loss: of such clips, in the mean.
        strongest: how far a clip of `FRAMES` frames may move, in the Euclidean distance of all its pixels; each clip
            moves by a share of it, and one of fewer frames by less.

    Returns:
        The same shape and range.
    """
    shape = (len(frames), 1, 1, 1, 1)
    level = strongest * torch.rand(shape, generator=generator) * (frames.shape[1] / FRAMES) ** 0.5
    start = F.normalize(torch.randn(frames.shape, generator=generator), dim=(1, 2, 3, 4))
    tried = (frames + 0.5 * level * start).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(tried), tried)
    return (frames + level * F.normalize(gradient, dim=(1, 2, 3, 4))).clamp(0, 1)
