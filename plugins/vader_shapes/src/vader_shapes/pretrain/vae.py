"""Trains the causal video VAE on rendered clips of training combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock
from torch import Tensor

from vader_shapes.model import LATENT_CHANNELS, build_vae
from vader_shapes.pretrain.common import Budget, Log, MovingAverage, Training
from vader_shapes.pretrain.data import Clips, figures, held_out_clips, training_clips
from vader_shapes.world import SIZE

KL_WEIGHT = 1e-4
OBJECT_WEIGHT = 4.0
EDGE_WEIGHT = 8.0
CLIPS = 6000
CROP = 16  # pixels; crops cost a quarter of whole frames and show more of the object
CROPPED_SHARE = 0.7  # of the budget; the rest trains on whole frames, without which those get worse
FIRST_LOG_VARIANCE = -4.0


def to_video(frames: Tensor) -> Tensor:
    """Frames `(b f c h w)` in [0, 1] to the VAE's input `(b c f h w)` in [-1, 1]."""
    return frames.transpose(1, 2) * 2 - 1


def to_frames(video: Tensor) -> Tensor:
    """The VAE's output `(b c f h w)` in [-1, 1] to frames `(b f c h w)` in [0, 1]."""
    return (video.transpose(1, 2) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode(vae: AutoencoderKLWan, frames: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, each `(n c f h w)`, not normalised."""
    parts = [vae.encode(to_video(part)).latent_dist for part in frames.split(batch)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: Tensor, batch: int = 64) -> Tensor:
    """Frames `(n f c h w)` in [0, 1] of raw latents `(n c f h w)`."""
    return torch.cat([to_frames(vae.decode(part).sample) for part in latents.split(batch)])


def decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """`vae.decode` without its final clamp, which would stop the gradient of every saturated pixel."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    chunks = []
    for i in range(latents.shape[2]):
        vae._conv_idx = [0]
        chunk = hidden[:, :, i : i + 1]
        chunks.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0))
    vae.clear_cache()
    return torch.cat(chunks, dim=2)


def pixel_weights(video: Tensor) -> Tensor:
    """`(b 1 f h w)`: the object and its edge weigh more than the background.

    Args:
        video: `(b c f h w)`, whole frames whose top left pixel shows the background.
    """
    is_object = ((video - video[..., :1, :1]).abs().sum(1) > 0.05).float()
    near = F.max_pool2d(is_object, 5, stride=1, padding=2)
    edge = F.max_pool2d(is_object, 3, stride=1, padding=1) + F.max_pool2d(-is_object, 3, stride=1, padding=1)
    return (1 + OBJECT_WEIGHT * near + EDGE_WEIGHT * edge).unsqueeze(1)


def reconstruction_loss(output: Tensor, video: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of absolute plus squared error of `output` and `video` `(b c f h w)` in [-1, 1]."""
    error = output - video
    return (weight * (error.abs() + error**2)).sum() / (weight.sum() * video.shape[1])


def vae_loss(vae: AutoencoderKLWan, frames: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Weighted reconstruction plus a small KL term.

    Args:
        frames: `(b f c h w)` in [0, 1].
        crop: side in pixels of the window to train on, at a random place.
    """
    video = to_video(frames)
    weight = pixel_weights(video)
    top, left = torch.randint(0, frames.shape[-1] - crop + 1, (2,), generator=generator).tolist()
    video, weight = (t[..., top : top + crop, left : left + crop] for t in (video, weight))
    posterior = vae.encode(video).latent_dist
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return reconstruction_loss(decode_unclamped(vae, posterior.sample(generator)), video, weight) + KL_WEIGHT * kl


@torch.no_grad()
def round_trip(vae: AutoencoderKLWan, clips: Clips) -> dict[str, Any]:
    """PSNR in dB (over all pixels of all clips) and exact accuracies after encode (mean) and decode."""
    frames = decode(vae, encode(vae, clips.frames)[0])
    psnr = -10 * torch.log10(F.mse_loss(frames, clips.frames)).item()
    return {"psnr": round(psnr, 2), **figures(frames, clips.prompts)}


def _fresh_vae() -> AutoencoderKLWan:
    """A VAE whose residual blocks start as the identity, with little posterior noise: it trains far faster so."""
    vae = build_vae()
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    torch.nn.init.zeros_(vae.quant_conv.weight[LATENT_CHANNELS:])
    torch.nn.init.constant_(vae.quant_conv.bias[LATENT_CHANNELS:], FIRST_LOG_VARIANCE)
    return vae


def train_vae(
    out: Path,
    budget: Budget,
    seed: int = 0,
    log_every: int = 50,
    save_every: int = 100,
    check_every: int = 1000,
    clip_count: int = CLIPS,
    held_out_every: int = 1,
) -> Path:
    """Trains until the budget is used up; continues from `out/vae.pt` if that exists.

    Returns:
        The folder `out/vae` with the averaged weights, loadable by `AutoencoderKLWan.from_pretrained`.
    """
    torch.manual_seed(seed)
    vae = _fresh_vae()
    training = Training(out / "vae.pt", vae, budget, seed)
    if training.progress >= 1 and (out / "vae").exists():  # its decoder may have been trained on since
        return out / "vae"
    clips, held_out = training_clips(clip_count, seed), held_out_clips(seed + 1, held_out_every)
    log = Log(out / "vae.jsonl")
    while training.progress < 1:
        index = torch.randint(len(clips.prompts), (budget.batch,), generator=training.generator)
        crop = CROP if training.progress < CROPPED_SHARE else SIZE
        loss = training.update(vae_loss(vae, clips.frames[index], crop, training.generator))
        if training.steps % log_every == 0:
            log.write(stage="vae", step=training.steps, loss=loss, seconds=training.seconds)
        if training.due(save_every):
            training.save()
        if training.due(check_every):
            checked = round_trip(_averaged(training.average), held_out)
            log.write(stage="vae", step=training.steps, held_out=checked)
    return _export_vae(_averaged(training.average), clips, held_out, log, out / "vae")


def _averaged(average: MovingAverage) -> AutoencoderKLWan:
    vae = build_vae()
    vae.load_state_dict(average.values)
    return vae.eval()


def normalisation(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """latents_mean and latents_std `(c,)` for posterior means and deviations, each `(n c f h w)`.

    A channel's deviation is made larger where posterior noise is much of it, so that its variance, once normalised, is
    the share that the clips explain: what the VAE left to noise cannot be predicted, and would be much of the loss of
    the denoiser.
    """
    over = (0, 2, 3, 4)
    explained, noise = mean.var(over), (std**2).mean(over)
    return mean.mean(over), (explained + noise) / explained.sqrt()


def _export_vae(vae: AutoencoderKLWan, clips: Clips, held_out: Clips, log: Log, folder: Path) -> Path:
    """Measures latents_mean and latents_std on training clips, writes them to the config, saves the VAE."""
    found = normalisation(*encode(vae, clips.frames[:1008]))
    offset, scale = ([round(v, 5) for v in values.tolist()] for values in found)
    vae.register_to_config(latents_mean=offset, latents_std=scale)
    vae.save_pretrained(folder)
    log.write(stage="vae", final=round_trip(vae, held_out), latents_std=vae.config.latents_std)
    return folder
