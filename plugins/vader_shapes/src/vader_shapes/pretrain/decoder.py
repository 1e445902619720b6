"""Fine-tunes the VAE's decoder alone. The latents stay as they are, so a denoiser may train on them meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from vader_shapes.pretrain.common import Budget, Log, MovingAverage, Training
from vader_shapes.pretrain.data import held_out_clips, training_clips
from vader_shapes.pretrain.vae import (
    CLIPS,
    decode_unclamped,
    encode,
    pixel_weights,
    reconstruction_loss,
    round_trip,
    to_video,
)

STRONGEST_NOISE = 0.15  # standard deviations of the latents: what a good denoiser leaves
SEED_OFFSET = 30


def train_decoder(
    out: Path,
    budget: Budget,
    seed: int = 0,
    save_every: int = 100,
    check_every: int = 500,
    clip_count: int = CLIPS,
    held_out_every: int = 1,
) -> Path:
    """Trains until the budget is used up; continues from `out/decoder.pt` if that exists.

    Returns:
        The folder `out/vae`, rewritten with the averaged decoder; encoder and configuration are untouched.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan.from_pretrained(out / "vae")
    vae.encoder.requires_grad_(False)
    parts = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    training = Training(out / "decoder.pt", parts, budget, seed)
    if training.progress >= 1:
        return out / "vae"
    clips = training_clips(clip_count, seed + SEED_OFFSET)
    held_out = held_out_clips(seed + 1, held_out_every)
    mean, std = encode(vae, clips.frames)
    level = STRONGEST_NOISE * torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    log = Log(out / "vae.jsonl")
    while training.progress < 1:
        index = torch.randint(len(mean), (budget.batch,), generator=training.generator)
        noise = torch.randn(budget.batch, *mean.shape[1:], generator=training.generator)
        strength = torch.rand(budget.batch, 1, 1, 1, 1, generator=training.generator) * level
        video = to_video(clips.frames[index])
        output = decode_unclamped(vae, mean[index] + (std[index] + strength) * noise)
        loss = training.update(reconstruction_loss(output, video, pixel_weights(video)))
        if training.due(save_every):
            training.save()
        if training.due(check_every):
            figures = round_trip(_write(out / "vae", training.average), held_out)
            log.write(stage="decoder", step=training.steps, loss=loss, seconds=training.seconds, held_out=figures)
    return out / "vae"


def _write(folder: Path, average: MovingAverage) -> AutoencoderKLWan:
    """Replaces the decoder in `folder` by the averaged one."""
    vae = AutoencoderKLWan.from_pretrained(folder).eval()
    nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).load_state_dict(average.values)
    temporary, old = folder.with_name("vae.tmp"), folder.with_name("vae.old")
    for path in (temporary, old):
        shutil.rmtree(path, ignore_errors=True)
    vae.save_pretrained(temporary)
    folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old)
    return vae
