"""Learning from finished clips: made and judged without gradient, then noised as in training. Any sampler will do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vader.diffusion import noising
from vader.diffusion.gradient import no_gradient
from vader.diffusion.precision import upcast
from vader.diffusion.seeding import derive, stream
from vader.methods.advantages import Spread, group_advantages
from vader.methods.context import RolloutContext
from vader.protocols import Batch, Branch
from vader.shapes import Latents


@dataclass(frozen=True)
class JudgedClips:
    """Clips of one batch.

    Args:
        latents: ``(b ...)``, clean.
        advantages: ``(b,)``.
        scores: raw, by reward.
        reward: ``(b,)``.
    """

    latents: Tensor
    advantages: Tensor
    scores: dict[str, Tensor]
    reward: Tensor


@torch.no_grad()
def judged_clips(context: RolloutContext, batches: Sequence[Batch], spread: Spread, limit: float) -> list[JudgedClips]:
    """Make and judge the clips of a round, and compare them with others of their prompts, on all processes.

    Args:
        context: makes and judges.
        batches: of this process.
        spread: see :func:`vader.methods.advantages.group_advantages`.
        limit: advantages are clipped to +- this.
    """
    steps = no_gradient(len(context.sampler.timesteps))
    made = [context.sample_and_score(batch, steps) for batch in batches]
    prompts = [[prompt.text for prompt in batch.prompts] for batch in batches]
    found = group_advantages(prompts, [one.reward.tolist() for one in made], context.gather, spread)
    return [
        JudgedClips(one.latents, one.reward.new_tensor(values).clamp(-limit, limit), dict(one.scores), one.reward)
        for one, values in zip(made, found, strict=True)
    ]


@dataclass(frozen=True)
class NoisedClips:
    """Clips at timesteps of training.

    Args:
        clean: ``(b ...)``.
        latents: ``(b ...)``, noised.
        timestep: ``(b,)``.
        target: ``(b ...)``, what a perfect denoiser predicts.
    """

    clean: Latents
    latents: Latents
    timestep: Tensor
    target: Tensor

    def error(self, prediction: Tensor) -> Tensor:
        """Mean squared error of a prediction ``(b ...)`` for each clip, ``(b,)``."""
        return (upcast(prediction) - self.target).square().flatten(1).mean(1)


def noised_clips(context: RolloutContext, clean: Latents, seeds: Sequence[int]) -> NoisedClips:
    """Clips with noise and a timestep each, both drawn by its seed.

    Args:
        context: with the noise schedule.
        clean: ``(b ...)``.
        seeds: ``b`` of them.
    """
    schedule = context.backbone.schedule
    noise = context.noise(seeds).draw()
    drawn = [noising.draw_timestep(schedule, stream(seed, "timestep")) for seed in seeds]
    timestep = torch.tensor(drawn, device=context.device)
    latents = noising.add_noise(schedule, clean, noise, timestep)
    return NoisedClips(clean, latents, timestep, noising.target(schedule, clean, noise, timestep))


def drawn_clips(context: RolloutContext, batch: Batch, clean: Latents, *path: int | str) -> NoisedClips:
    """A batch's clips at timesteps drawn by their seeds and a path."""
    return noised_clips(context, clean, [derive(seed, *path) for seed in batch.seeds])


def base_divergence(context: RolloutContext, prediction: Tensor, noised: NoisedClips, branch: Branch) -> Tensor:
    """Half the mean squared difference of a prediction from the base model's for the same branch, a scalar."""
    with context.base():
        reference = context.predict(noised.latents, noised.timestep, branch)
    return (upcast(prediction) - upcast(reference)).square().mean() / 2
