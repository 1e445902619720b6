"""Trains the denoiser and the text encoder together by flow matching (Lipman et al., arXiv 2210.02747, eq. 23).

Conventions are those of diffusers' Wan: x_t = (1 - sigma) x_0 + sigma noise, target noise - x_0, and the network
receives timestep = 1000 sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from vader_shapes.pretrain.common import (
    Budget,
    Log,
    MovingAverage,
    PhaseTimer,
    load_checkpoint,
    save_checkpoint,
    training_clips,
)
from vader_shapes.pretrain.export import export_pipeline
from vader_shapes.pretrain.muon import Muon
from vader_shapes.pretrain.sampling import held_out_accuracy
from vader_shapes.pretrain.vae import encode

CAPTION_DROPOUT = 0.1
TIME_MEAN, TIME_STD = 0.5, 1.2  # of the normal under the logit
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


def encode_training_clips(vae: AutoencoderKLWan, repeats: int, seed: int) -> Latents:
    """Renders and encodes `repeats` clips of each training combination."""
    clips = training_clips(repeats, seed)
    mean, std = encode(vae, clips.frames)
    offset = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    words = build_tokenizer()(
        [*clips.prompts, ""], padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt"
    )
    return Latents((mean - offset) / scale, std / scale, words.input_ids, words.attention_mask)


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


@dataclass
class _State:
    """Everything that a resumed run needs."""

    model: Generator
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    generator: torch.Generator
    step: int = 0
    clock: PhaseTimer = field(default_factory=PhaseTimer)

    def save(self, path: Path) -> None:
        checkpoint = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        checkpoint |= {"average": self.average.values, "generator": self.generator.get_state()}
        save_checkpoint(path, checkpoint | {"step": self.step, "elapsed": self.clock.elapsed()})

    def load(self, path: Path) -> None:
        if (saved := load_checkpoint(path)) is None:
            return
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average.values = saved["average"]
        self.generator.set_state(saved["generator"])
        self.step, self.clock = saved["step"], PhaseTimer(saved["elapsed"])

    def averaged_pipeline(self, vae_folder: Path) -> WanPipeline:
        model = Generator()
        model.load_state_dict(self.average.values)
        # Read each time: the decoder stage may have improved the VAE's decoder since (the latents stay the same).
        return build_pipeline(AutoencoderKLWan.from_pretrained(vae_folder), model.transformer, model.text_encoder)


def train_denoiser(
    out: Path,
    budget: Budget,
    seed: int = 0,
    repeats: int = 30,
    log_every: int = 25,
    save_every: int = 200,
    check_every: int = 450,
    final_clips: int = 128,
    weights: Path = PIPELINE,
    compiled: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Path:
    """Trains until the budget is used up; continues from `out/denoiser.pt` if that exists.

    Needs the folder `out/vae` that `train_vae` leaves. Exports the averaged weights after every check.

    Returns:
        The pipeline folder `weights`.
    """
    torch.manual_seed(seed)
    data = encode_training_clips(AutoencoderKLWan.from_pretrained(out / "vae").eval(), repeats, seed + 10)
    model = Generator()
    optimizer = Muon(model.named_parameters(), lr=budget.learning_rate)
    state = _State(model, optimizer, MovingAverage(model), torch.Generator().manual_seed(seed))
    state.load(out / "denoiser.pt")
    log = Log(out / "denoiser.jsonl")
    predict = torch.compile(model) if compiled else model
    losses: list[float] = []
    while budget.progress(state.step, state.clock.elapsed()) < 1:
        losses.append(_train_step(state, predict, data, budget))
        if on_step is not None:
            on_step(state.step)
        if state.step % log_every == 0:
            log.write(step=state.step, loss=sum(losses) / len(losses), seconds=round(state.clock.elapsed(), 1))
            losses.clear()
        if state.step % save_every == 0:
            state.save(out / "denoiser.pt")
        if state.step % check_every == 0:
            pipeline, seconds = state.averaged_pipeline(out / "vae"), round(state.clock.elapsed(), 1)
            log.write(step=state.step, held_out=held_out_accuracy(pipeline, 64), seconds=seconds)
            export_pipeline(pipeline, weights)
    state.save(out / "denoiser.pt")
    pipeline = state.averaged_pipeline(out / "vae")
    if final_clips:
        log.write(step=state.step, final=held_out_accuracy(pipeline, final_clips, seed=4321), clips=final_clips)
    return export_pipeline(pipeline, weights)


def _train_step(state: _State, predict: Callable[..., Tensor], data: Latents, budget: Budget) -> float:
    """One optimizer step; returns the loss."""
    for group in state.optimizer.param_groups:
        group["lr"] = budget.rate(state.step, state.clock.elapsed())
    loss = flow_matching_loss(predict, data, budget.batch, state.generator)
    state.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimizer.step()
    state.average.update(state.model, state.step)
    state.step += 1
    return loss.item()
