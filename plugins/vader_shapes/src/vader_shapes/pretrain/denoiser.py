"""Trains the denoiser and the text encoder together by flow matching (Lipman et al., arXiv 2210.02747, eq. 23).

Conventions are those of diffusers' Wan: x_t = (1 - sigma) x_0 + sigma noise, target noise - x_0, and the network
receives timestep = 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor, nn

from vader_shapes.model import (
    MAX_SEQUENCE_LENGTH,
    PIPELINE,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
)
from vader_shapes.pretrain.common import Budget, Log, MovingAverage, Training, load_checkpoint, save_checkpoint
from vader_shapes.pretrain.data import training_clips
from vader_shapes.pretrain.export import export_pipeline
from vader_shapes.pretrain.sampling import sampled_figures
from vader_shapes.pretrain.vae import encode

CAPTION_DROPOUT = 0.1
CLIPS = 32_000
CHUNK = 4320  # clips that are rendered and encoded at a time
TIME_MEAN, TIME_STD = 0.5, 1.2  # of the normal under the logit
FINAL_SETTINGS = ((3.0, 10), (1.0, 8), (1.0, 4))  # guidance scale and sampler steps of the last measurements
UNIFORM_TIMES = 0.2  # share of uniform sigmas: the sampler starts at sigma 1, where the logit-normal is thin


class Generator(nn.Module):
    """Text encoder and denoiser, trained as one."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.transformer = build_transformer()

    def forward(self, latents: Tensor, sigma: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predicted velocity `(b c f h w)` for noisy latents; sigma `(b,)` in [0, 1]; tokens and mask `(b s)`."""
        hidden = self.text_encoder(tokens, mask).last_hidden_state
        # The Wan pipeline cuts each prompt at its length and fills up with zeros; so does training.
        prompt_embeds = hidden * mask.unsqueeze(-1)
        return self.transformer(latents, 1000 * sigma, prompt_embeds, return_dict=False)[0]


@dataclass(frozen=True)
class Latents:
    """Encoded training clips: mean and std `(n c f h w)`, normalised; tokens and mask `(n s)`, row n is ""."""

    mean: Tensor
    std: Tensor
    tokens: Tensor
    mask: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """`count` posterior samples with tokens and mask; a share of the captions is empty."""
        index = torch.randint(len(self.mean), (count,), generator=generator)
        noise = torch.randn(count, *self.mean.shape[1:], generator=generator)
        latents = self.mean[index] + self.std[index] * noise
        empty = torch.rand(count, generator=generator) < CAPTION_DROPOUT
        caption = torch.where(empty, len(self.mean), index)
        return latents, self.tokens[caption], self.mask[caption]


def encode_training_clips(vae: AutoencoderKLWan, count: int, seed: int) -> Latents:
    """Renders and encodes clips of training combinations."""
    offset = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    means, stds, prompts = [], [], []
    for chunk, start in enumerate(range(0, count, CHUNK)):
        clips = training_clips(min(CHUNK, count - start), seed + 1000 * chunk)
        mean, std = encode(vae, clips.frames)
        means.append((mean - offset) / scale)
        stds.append(std / scale)
        prompts += clips.prompts
    words = build_tokenizer()([*prompts, ""], padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt")
    return Latents(torch.cat(means), torch.cat(stds), words.input_ids, words.attention_mask)


def kept_latents(out: Path, count: int, seed: int) -> Latents:
    """The encoded training clips, from `out/latents.pt` if they are there already."""
    if (saved := load_checkpoint(out / "latents.pt")) is None:
        vae = AutoencoderKLWan.from_pretrained(out / "vae").eval()
        saved = vars(encode_training_clips(vae, count, seed))
        save_checkpoint(out / "latents.pt", saved)
    return Latents(**saved)


def draw_sigmas(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` noise levels in (0, 1): logit-normal (Esser et al., arXiv 2403.03206), some uniform."""
    normal = torch.sigmoid(TIME_MEAN + TIME_STD * torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < UNIFORM_TIMES, uniform, normal)


def flow_matching_loss(predict: Callable[..., Tensor], data: Latents, count: int, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted velocity on `count` fresh training examples."""
    latents, tokens, mask = data.draw(count, generator)
    sigma = draw_sigmas(count, generator)
    noise = torch.randn(latents.shape, generator=generator)
    level = sigma.view(-1, 1, 1, 1, 1)
    velocity = predict((1 - level) * latents + level * noise, sigma, tokens, mask)
    return F.mse_loss(velocity, noise - latents)


def train_denoiser(
    out: Path,
    budget: Budget,
    seed: int = 0,
    log_every: int = 25,
    save_every: int = 100,
    check_every: int = 1000,
    check_clips: int = 64,
    final_clips: int = 128,
    weights: Path = PIPELINE,
    compiled: bool = False,
    on_step: Callable[[int], None] | None = None,
    clip_count: int = CLIPS,
) -> Path:
    """Trains until the budget is used up; continues from `out/denoiser.pt` if that exists.

    Needs the folder `out/vae` that `train_vae` leaves. Exports the averaged weights at the end.

    Returns:
        The pipeline folder `weights`, by default inside the package.
    """
    torch.manual_seed(seed)
    model, folder = Generator(), weights
    training = Training(out / "denoiser.pt", model, budget, seed, decay=0.999)
    if training.progress >= 1 and folder.exists():
        return folder
    data = kept_latents(out, clip_count, seed + 10)
    log = Log(out / "denoiser.jsonl")
    predict = torch.compile(model) if compiled else model
    losses: list[float] = []
    while training.progress < 1:
        losses.append(training.update(flow_matching_loss(predict, data, budget.batch, training.generator)))
        if on_step is not None:
            on_step(training.steps)
        if training.steps % log_every == 0:
            log.write(step=training.steps, loss=sum(losses) / len(losses), seconds=training.seconds)
            losses.clear()
        if training.due(save_every):
            training.save()
        if training.steps % check_every == 0:
            checked = sampled_figures(averaged_pipeline(training.average, out / "vae"), check_clips)
            log.write(step=training.steps, **checked, seconds=training.seconds)
    pipeline = averaged_pipeline(training.average, out / "vae")
    for guidance_scale, steps in FINAL_SETTINGS if final_clips else ():
        checked = sampled_figures(pipeline, final_clips, 4321, steps, guidance_scale)
        log.write(final=checked, clips=final_clips, guidance_scale=guidance_scale, sampler_steps=steps)
    return export_pipeline(pipeline, folder)


def averaged_pipeline(average: MovingAverage, vae_folder: Path) -> WanPipeline:
    """The averaged text encoder and denoiser with the VAE of a folder."""
    model = Generator()
    model.load_state_dict(average.values)
    return build_pipeline(AutoencoderKLWan.from_pretrained(vae_folder), model.transformer, model.text_encoder)
