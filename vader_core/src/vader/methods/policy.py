"""Denoising steps as a policy: their log-probabilities, and the clipped surrogate of its gradient.

Source: DDPO, arXiv 2305.13301, section 4.3; PPO, arXiv 1707.06347, eq. 7.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vader.diffusion.gradient import no_gradient
from vader.diffusion.precision import upcast
from vader.methods.context import RolloutContext
from vader.protocols import Batch, Loss, Sampler, StepOutput
from vader.shapes import Latents


@dataclass(frozen=True)
class Trajectory:
    """A batch of clips as the policy made them.

    Args:
        latents: by step, the latents before it, ``(b ...)``: those on both sides of every step that may be trained.
        log_probs: by step, ``(b,)``, under the policy that took it.
        advantages: ``(b,)``.
        scores: raw, by reward.
        reward: ``(b,)``.
    """

    latents: dict[str, Tensor]
    log_probs: dict[str, Tensor]
    advantages: Tensor
    scores: dict[str, Tensor]
    reward: Tensor

    @property
    def steps(self) -> list[int]:
        """The steps that may be trained, ascending."""
        return sorted(map(int, self.log_probs))

    def judged(self, advantages: Sequence[float], limit: float) -> Trajectory:
        """The same with advantages, clipped to +- ``limit``."""
        return replace(self, advantages=self.reward.new_tensor(advantages).clamp(-limit, limit))


def log_probability(value: Latents, mean: Latents, std: Tensor) -> Tensor:
    """Log-density of ``value`` under a normal distribution of independent elements.

    Args:
        value: ``(b c f h w)``.
        mean: ``(b c f h w)``.
        std: scalar, above 0.

    Returns:
        ``(b,)``, at least float32.
    """
    std = upcast(std)
    deviation = (upcast(value) - upcast(mean)) / std
    constant = deviation[0].numel() * (std.log() + 0.5 * math.log(2 * math.pi))
    return -0.5 * deviation.square().flatten(1).sum(1) - constant


def noisy_steps(sampler: Sampler, least: float) -> list[int]:
    """The sampler's steps that add noise of at least this standard deviation; without noise there is no density."""
    zero = torch.zeros(1, device=sampler.timesteps.device)
    deviations = [float(sampler.step(zero, i, zero, zero).std) for i in range(len(sampler.timesteps))]
    return [i for i, std in enumerate(deviations) if std > 0 and std >= least]


@torch.no_grad()
def sampled(context: RolloutContext, batch: Batch, noisy: Collection[int]) -> Trajectory:
    """Make and judge a batch's clips, without advantages yet.

    Args:
        context: makes and judges.
        batch: whose clips they are.
        noisy: steps that may be trained.
    """
    latents: dict[str, Tensor] = {}
    log_probs: dict[str, Tensor] = {}

    def keep(i: int, before: Latents, output: StepOutput) -> None:
        if i in noisy:
            latents[str(i)], latents[str(i + 1)] = before, output.prev
            log_probs[str(i)] = log_probability(output.prev, output.mean, output.std)

    made = context.sample_and_score(batch, no_gradient(len(context.sampler.timesteps)), keep)
    return Trajectory(latents, log_probs, torch.zeros_like(made.reward), dict(made.scores), made.reward)


def step_loss(
    context: RolloutContext,
    batch: Batch,
    made: Trajectory,
    i: int,
    method: str,
    clip_range: float,
    kl_weight: float,
    passes: int,
) -> Loss:
    """The clipped surrogate of one denoising step.

    The ratio of probabilities is taken per latent element, ``exp((log p - log p_old) / elements)``, as DDPO's authors
    do: over thousands of elements the ratio itself is 0 or infinite after one update.

    Args:
        context: with the sampler that made the clips.
        batch: whose clips they are.
        made: those clips.
        i: the step.
        method: what metrics are called after.
        clip_range: of the ratio.
        kl_weight: of the divergence from the base model; 0 is off.
        passes: losses of a batch.
    """
    latents = made.latents[str(i)]
    with context.timer("loss"):
        prediction = context.predict_at(batch.conditioning, latents, i, recompute=False)
        step = context.sampler.step(prediction, i, latents, torch.zeros_like(latents))
        log_prob = log_probability(made.latents[str(i + 1)], step.mean, step.std)
        ratio = ((log_prob - made.log_probs[str(i)]) / latents[0].numel()).exp()
    value = clipped_surrogate(made.advantages, ratio, clip_range).mean()
    metrics = ratio_metrics(method, ratio, clip_range)
    if kl_weight:
        divergence = context.divergence(prediction, batch.conditioning, latents, i).mean()
        value = value + kl_weight * divergence
        metrics["kl"] = divergence.detach()
    return Loss(value / passes, made.scores, made.reward, metrics)


def clipped_surrogate(advantages: Tensor, ratio: Tensor, clip_range: float) -> Tensor:
    """What is minimised, for each clip, ``(b,)``.

    Args:
        advantages: ``(b,)``.
        ratio: of probabilities, now and when the clips were made, ``(b,)``.
        clip_range: beyond 1 +- this a ratio that has gone the right way is worth no more.
    """
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def ratio_metrics(method: str, ratio: Tensor, clip_range: float) -> dict[str, float | Tensor]:
    """What a method logs of its ratios ``(b,)``: the share of clipped ones, and how far they are from 1."""
    apart = ratio.detach() - 1
    return {
        f"{method}/clip_fraction": (apart.abs() > clip_range).float().mean(),
        f"{method}/ratio_deviation": apart.abs().mean(),
    }
