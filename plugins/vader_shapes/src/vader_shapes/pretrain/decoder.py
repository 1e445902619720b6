"""Fine-tunes the VAE's decoder alone. The latents stay as they are, so a denoiser may train on them meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from vader_shapes.pretrain.common import (
    Budget,
    Log,
    MovingAverage,
    PhaseTimer,
    load_checkpoint,
    rendered,
    save_checkpoint,
    training_clips,
)
from vader_shapes.pretrain.muon import Muon
from vader_shapes.pretrain.vae import decode_unclamped, encode, pixel_weights, reconstruction_loss, round_trip, to_video
from vader_shapes.world import held_out_combinations

STRONGEST_NOISE = 0.15  # standard deviations of the latents: what a good denoiser leaves
SEED_OFFSET = 30


def train_decoder(out: Path, budget: Budget, seed: int = 0, check_every: int = 200) -> Path:
    """Trains until the budget is used up; continues from `out/decoder.pt` if that exists.

    Returns:
        The folder `out/vae`, rewritten with the averaged decoder; encoder and configuration are untouched.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan.from_pretrained(out / "vae")
    vae.encoder.requires_grad_(False)
    clips, held_out = training_clips(14, seed + SEED_OFFSET), rendered(held_out_combinations() * 4, seed + 1)
    mean, std = encode(vae, clips.frames)
    level = STRONGEST_NOISE * torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)

    parts = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    optimizer = Muon(parts.named_parameters(), lr=budget.learning_rate)
    average, generator = MovingAverage(parts, decay=0.99), torch.Generator().manual_seed(seed)
    clock, step = PhaseTimer(), 0
    if (saved := load_checkpoint(out / "decoder.pt")) is not None:
        parts.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.values, step, clock = saved["average"], saved["step"], PhaseTimer(saved["elapsed"])
        generator.set_state(saved["generator"])
    log = Log(out / "vae.jsonl")
    while budget.progress(step, clock.elapsed()) < 1:
        for group in optimizer.param_groups:
            group["lr"] = budget.rate(step, clock.elapsed())
        index = torch.randint(len(mean), (budget.batch,), generator=generator)
        noise = torch.randn(budget.batch, *mean.shape[1:], generator=generator)
        strength = torch.rand(budget.batch, 1, 1, 1, 1, generator=generator) * level
        video = to_video(clips.frames[index])
        output = decode_unclamped(vae, mean[index] + (std[index] + strength) * noise)
        loss = reconstruction_loss(output, video, pixel_weights(video))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        average.update(parts, step)
        step += 1
        if step % check_every == 0 or budget.progress(step, clock.elapsed()) >= 1:
            checkpoint = {"model": parts.state_dict(), "optimizer": optimizer.state_dict(), "average": average.values}
            checkpoint |= {"generator": generator.get_state(), "step": step, "elapsed": clock.elapsed()}
            save_checkpoint(out / "decoder.pt", checkpoint)
            figures = round_trip(_write(out / "vae", average), held_out)
            log.write(stage="decoder", step=step, loss=loss.item(), seconds=round(clock.elapsed(), 1), held_out=figures)
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
