"""Turns rendered clips into clips with the faults that generators make, so that the scorer is useful on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from vader_shapes.pretrain.recipe import Clips
from vader_shapes.pretrain.vae import decode, encode
from vader_shapes.world import (
    BACKGROUNDS,
    CENTRE_JITTER,
    COLOURS,
    EXTENT_PER_RADIUS,
    FRAMES,
    MOTIONS,
    RADIUS,
    SIZE,
    TRAVEL,
    Attributes,
    signed_distance,
)


def latent_noise(vae: AutoencoderKLWan, clips: Clips, strongest: float, seed: int) -> Tensor:
    """VAE round trips with noise of up to `strongest` latent standard deviations, `(n f c h w)` in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    mean, _ = encode(vae, clips.frames)
    level = strongest * torch.rand(len(mean), 1, 1, 1, 1, generator=generator)
    scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return decode(vae, mean + level * scale * torch.randn(mean.shape, generator=generator))


def morphs(attributes: list[Attributes], other: list[str], share: Tensor, seed: int) -> Tensor:
    """Clips whose shape lies between two shapes, such as a square with round corners.

    Args:
        attributes: n of them.
        other: n second shapes.
        share: `(n,)` in [0, 1], of the second shape in the signed distance to the edge.

    Returns:
        `(n f c h w)` in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    clips = []
    for a, shape, weight in zip(attributes, other, share.tolist(), strict=True):
        draw = torch.rand(3, generator=generator)
        radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * draw[0]
        centre = SIZE / 2 + (2 * draw[1:] - 1) * CENTRE_JITTER
        grid = torch.arange(SIZE) + 0.5
        path = torch.linspace(-TRAVEL / 2, TRAVEL / 2, FRAMES).view(-1, 1, 1)
        dx = grid.view(1, 1, -1) - centre[0] - path * MOTIONS[a.motion][0]
        dy = grid.view(1, -1, 1) - centre[1] - path * MOTIONS[a.motion][1]
        first, second = (signed_distance(s, dx, dy, radius * EXTENT_PER_RADIUS[s]) for s in (a.shape, shape))
        mask = (0.5 - torch.lerp(first, second, weight)).clamp(0, 1).unsqueeze(1)
        background = torch.tensor(BACKGROUNDS[a.background]).view(1, 3, 1, 1)
        clips.append(background + mask * (torch.tensor(COLOURS[a.colour]).view(1, 3, 1, 1) - background))
    return torch.stack(clips)


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
