"""The reward gradient itself (VADER, arXiv 2407.08737, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.protocols import Batch, Loss
from vader.spec import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext, ScoredClips
    from vader.protocols import StepOutput
    from vader.shapes import Latents


class RewardGradientOptions(Options):
    """Options of :class:`RewardGradient`; window, frames and objective are fields of the run spec."""

    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")


class RewardGradient:
    """Minus the reward of the clips, differentiable through reward, decoder and the gradient window.

    With ``gradient.renoise`` each clip is made without gradient, noised again to the last step, and the clean latents
    predicted there are judged, once for each of that many draws of noise (DRaFT-LV, arXiv 2309.17400, algorithm 2).

    The divergence is measured at one step of each rollout, drawn uniformly: an unbiased estimate of its mean over them.
    """

    Options = RewardGradientOptions
    needs_gradient: ClassVar[bool] = True
    group_size = 1
    inner_epochs = 1

    def __init__(self, options: RewardGradientOptions, context: RolloutContext) -> None:
        self._context, self._kl_weight = context, options.kl_weight

    @property
    def passes(self) -> int:
        """See :class:`vader.protocols.Method`."""
        return self._context.renoise or 1

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        for batch in batches:
            yield from self._renoised(batch) if self._context.renoise else self._direct(batch)

    def _direct(self, batch: Batch) -> Iterator[Loss]:
        """One loss: through the gradient window."""
        window = self._context.draw_window(batch.rng)
        visited = _Visited(batch.rng.randrange(window.last + 1)) if self._kl_weight else None
        made = self._context.sample_and_score(batch, window, visited)
        yield self._loss(batch, made, visited, 1, {"gradient/k": float(window.k)})

    def _renoised(self, batch: Batch) -> Iterator[Loss]:
        """A loss for every draw of noise at the last step."""
        from vader.diffusion.gradient import no_gradient
        from vader.diffusion.noising import add_noise, predicted_clean
        from vader.diffusion.seeding import derive

        context, schedule, times = self._context, self._context.backbone.schedule, self._context.sampler.timesteps
        chosen, last = context.choose_frames(batch.rng), len(times) - 1
        clean = context.sample(batch.conditioning, batch.seeds, no_gradient(len(times))).detach()
        timestep = times[last].expand(len(batch.seeds))
        draws = context.renoise or 0
        for draw in range(draws):
            noise = context.noise([derive(seed, "renoise", draw) for seed in batch.seeds]).draw()
            latents = add_noise(schedule, clean, noise, timestep)
            prediction = context.predict_at(batch.conditioning, latents, last, recompute=context.recompute is True)
            made = context.decode_and_score(predicted_clean(schedule, prediction, latents, timestep), chosen, batch)
            yield self._loss(batch, made, _Visited(last, latents), draws, {"gradient/k": 1.0})

    def _loss(
        self, batch: Batch, made: ScoredClips, at: _Visited | None, draws: int, metrics: dict[str, float | Tensor]
    ) -> Loss:
        value = -made.reward.mean()
        if self._kl_weight and at is not None:
            divergence = self._divergence(batch, at)
            value = value + self._kl_weight * divergence
            metrics["kl"] = divergence.detach()
        return Loss(value / draws, made.detached_scores(), made.reward.detach(), metrics)

    def _divergence(self, batch: Batch, at: _Visited) -> Tensor:
        context, conditioning = self._context, batch.conditioning
        assert at.latents is not None
        with context.timer("loss"):
            prediction = context.predict_at(conditioning, at.latents, at.step, recompute=context.recompute)
            return context.divergence(prediction, conditioning, at.latents, at.step).mean()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""


class _Visited:
    """The latents before one step of a rollout, without their graph."""

    def __init__(self, step: int, latents: Latents | None = None) -> None:
        self.step, self.latents = step, latents

    def __call__(self, i: int, latents: Latents, output: StepOutput) -> None:
        if i == self.step:
            self.latents = latents.detach()
