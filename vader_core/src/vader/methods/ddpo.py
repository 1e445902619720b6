"""Denoising diffusion policy optimization (DDPO, arXiv 2305.13301): a policy gradient over denoising steps."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.errors import Problem, SpecError
from vader.methods.advantages import PromptStatistics
from vader.methods.requirements import Finding, no_window, random_steps, whole_groups
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.protocols import StepOutput
    from vader.shapes import Latents


class DDPOOptions(Options):
    """Options of :class:`DDPO`."""

    group_size: int = Field(1, ge=1, description="Clips of each prompt in a batch; it divides train.batch_size.")
    inner_epochs: int = Field(1, ge=1, description="Optimizer steps taken on the same clips.")
    train_steps: int | None = Field(
        None,
        ge=1,
        description="Denoising steps trained for each batch, drawn at random. Null: all with noise of min_std.",
    )
    min_std: float = Field(
        0.01,
        ge=0,
        description="Steps with noise below this standard deviation are not trained: it changes nothing to be seen, "
        "and gradients of log-probabilities grow with its inverse.",
    )
    clip_range: float = Field(
        1e-4, gt=0, description="The probability ratio, per latent element, is clipped to 1 +- this."
    )
    advantage_clip: float = Field(5.0, gt=0, description="Advantages are clipped to +- this.")
    buffer_size: int = Field(32, ge=2, description="Rewards remembered of each prompt.")
    min_count: int = Field(
        8, ge=2, description="Rewards of a prompt that make its own statistics; below, those of the round are used."
    )
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")


@dataclass(frozen=True)
class _Round:
    """A batch of clips as the policy made them.

    Args:
        latents: ``(steps + 1, b c f h w)``, the trajectory.
        log_probs: ``(steps, b)``, of each step under the policy that took it.
        advantages: ``(b,)``.
        scores: raw, by reward.
        reward: ``(b,)``.
    """

    latents: Tensor
    log_probs: Tensor
    advantages: Tensor
    scores: dict[str, Tensor]
    reward: Tensor


def log_probability(value: Latents, mean: Latents, std: Tensor) -> Tensor:
    """Log-density of ``value`` under a normal distribution of independent elements.

    Args:
        value: ``(b c f h w)``.
        mean: ``(b c f h w)``.
        std: scalar, above 0.

    Returns:
        ``(b,)``, at least float32.
    """
    from vader.diffusion.precision import upcast

    std = upcast(std)
    deviation = (upcast(value) - upcast(mean)) / std
    constant = deviation[0].numel() * (std.log() + 0.5 * math.log(2 * math.pi))
    return -0.5 * deviation.square().flatten(1).sum(1) - constant


class DDPO:
    """Importance-sampled policy gradient with clipping (DDPO-IS, arXiv 2305.13301, section 4.3; PPO, arXiv 1707.06347).

    Rewards are seen as numbers only, so they need not be differentiable. The ratio of probabilities is taken per latent
    element, ``exp((log p - log p_old) / elements)``, as the authors' implementation does: over thousands of elements
    the ratio itself is 0 or infinite after one update.
    """

    Options = DDPOOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: DDPOOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: no step of the sampler has noise, or fewer than ``train_steps``.
        """
        self._options, self._context = options, context
        self._statistics = PromptStatistics(options.buffer_size, options.min_count)
        self._rounds: list[_Round] = []
        self._noisy = _noisy_steps(context, options.min_std)
        self.group_size, self.inner_epochs = options.group_size, options.inner_epochs
        self.passes = options.train_steps or len(self._noisy)
        if not 1 <= self.passes <= len(self._noisy):
            expected = (
                f"the sampler adds noise of min_std = {options.min_std:g} or more in {len(self._noisy)} of its "
                f"{len(context.sampler.timesteps)} steps"
            )
            raise SpecError(
                [Problem("method.options.train_steps", f"{self.passes} steps cannot be trained: {expected}.")]
            )

    @classmethod
    def validate(cls, options: DDPOOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.Method`."""
        yield from no_window("ddpo", spec)
        yield from random_steps("ddpo", spec, sampler)
        yield from whole_groups("ddpo", spec, options.group_size)
        if (options.train_steps or 1) > spec.sampler.steps:
            message = f"{options.train_steps} is more than sampler.steps = {spec.sampler.steps}."
            yield "method.options.train_steps", message

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        if update == 0:
            self._rounds = self._collect(batches)
        for batch, made in zip(batches, self._rounds, strict=True):
            for i in self._drawn(batch.rng):
                yield self._loss(batch, made, i)

    def _drawn(self, rng: random.Random) -> list[int]:
        return sorted(rng.sample(self._noisy, self.passes))

    def _collect(self, batches: Sequence[Batch]) -> list[_Round]:
        """Make and judge every clip of the round, then compare rewards over all processes."""
        import torch

        with torch.no_grad():
            made = [self._sample(batch) for batch in batches]
        prompts = [[prompt.text for prompt in batch.prompts] for batch in batches]
        rewards: list[list[float]] = [reward.tolist() for *_, reward in made]
        mine = [
            pair for texts, values in zip(prompts, rewards, strict=True) for pair in zip(texts, values, strict=True)
        ]
        everyone: list[tuple[str, float]] = self._context.gather(mine)
        whole_round = [reward for _, reward in everyone]
        self._statistics.remember([prompt for prompt, _ in everyone], whole_round)
        limit = self._options.advantage_clip
        rounds = []
        for texts, values, (latents, log_probs, scores, reward) in zip(prompts, rewards, made, strict=True):
            found = self._statistics.advantages(texts, values, whole_round)
            rounds.append(_Round(latents, log_probs, reward.new_tensor(found).clamp(-limit, limit), scores, reward))
        return rounds

    def _sample(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        """A batch's trajectory, log-probabilities, scores and rewards."""
        import torch

        from vader.diffusion.gradient import no_gradient

        steps = len(self._context.sampler.timesteps)
        visited: list[Tensor] = []
        log_probs: list[Tensor] = []

        def keep(i: int, latents: Latents, output: StepOutput) -> None:
            visited.append(latents)
            known = i in self._noisy
            log_probs.append(
                log_probability(output.prev, output.mean, output.std) if known else latents.new_zeros(len(latents))
            )

        made = self._context.sample_and_score(batch, no_gradient(steps), keep)
        return torch.stack([*visited, made.latents]), torch.stack(log_probs), dict(made.scores), made.reward

    def _loss(self, batch: Batch, made: _Round, i: int) -> Loss:
        """The clipped surrogate of one denoising step (arXiv 1707.06347, eq. 7)."""
        import torch

        context, latents = self._context, made.latents[i]
        with context.timer("loss"):
            prediction = context.predict_at(batch.conditioning, latents, i, recompute=False)
            step = context.sampler.step(prediction, i, latents, torch.zeros_like(latents))
            log_prob = log_probability(made.latents[i + 1], step.mean, step.std)
            ratio = ((log_prob - made.log_probs[i]) / latents[0].numel()).exp()
        clipped = ratio.clamp(1 - self._options.clip_range, 1 + self._options.clip_range)
        value = torch.maximum(-made.advantages * ratio, -made.advantages * clipped).mean()
        metrics = {
            "ddpo/clip_fraction": (ratio != clipped).float().mean(),
            "ddpo/ratio_deviation": (ratio.detach() - 1).abs().mean(),
        }
        if self._options.kl_weight:
            divergence = context.divergence(prediction, batch.conditioning, latents, i).mean()
            value = value + self._options.kl_weight * divergence
            metrics["kl"] = divergence.detach()
        return Loss(value / self.passes, made.scores, made.reward, metrics)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        rounds = stored(self._rounds) if self.inner_epochs > 1 else []
        return {"statistics": self._statistics.state_dict(), "rounds": rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        self._statistics.load_state_dict(state["statistics"])
        self._rounds = restored(_Round, state["rounds"], self._context.device)


def _noisy_steps(context: RolloutContext, least: float) -> list[int]:
    """The sampler's steps that add noise of at least this standard deviation; without noise there is no density."""
    import torch

    zero = torch.zeros(1, device=context.device)
    sampler = context.sampler
    deviations = [float(sampler.step(zero, i, zero, zero).std) for i in range(len(sampler.timesteps))]
    return [i for i, std in enumerate(deviations) if std > 0 and std >= least]
