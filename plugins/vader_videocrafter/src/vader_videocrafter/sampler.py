"""VideoCrafter's DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16, with the signal's scale).

Importing this module imports no torch, so that a spec is judged at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vader import Options, SamplerContext, StepOutput
from vader_videocrafter.schedule import ScaledSchedule

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Latents, Prediction


class VideoCrafterDDIMOptions(Options):
    """Options of :class:`VideoCrafterDDIM`."""

    use_scale: bool = Field(
        True, description="Scale the signal as the checkpoint was trained (512 v2, 1024). False: sample without."
    )


class VideoCrafterDDIM:
    """DDIM with eta, in which the clean latents are scaled by the checkpoint's own factors.

    Timesteps are evenly spread, 1 the last. The last step goes to the first training alpha, not to 1, and adds its
    noise like every other. There are always as many steps as asked for.

    Source: the sampler of VideoCrafter2, whose numbers it gives wherever ``steps`` divides 1000.

    Raises:
        ValueError: for as many steps as training has timesteps, or more.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon",)
    stochastic: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    Options = VideoCrafterDDIMOptions

    timesteps: Tensor

    def __init__(self, options: VideoCrafterDDIMOptions, context: SamplerContext) -> None:
        import torch

        schedule, steps, total = context.schedule, context.steps, context.schedule.train_timesteps
        assert schedule.alphas_cumprod is not None
        if steps >= total:
            raise ValueError(f"videocrafter_ddim takes fewer than {total} steps, found {steps}.")
        timesteps = (torch.arange(steps) * total).div(steps, rounding_mode="floor").flip(0) + 1
        self.timesteps = timesteps.to(context.device)
        self._eta = context.eta
        self._alphas = _levels(schedule.alphas_cumprod, timesteps)
        self._scales = [(1.0, 1.0)] * steps
        if options.use_scale and isinstance(schedule, ScaledSchedule) and schedule.signal_scale is not None:
            self._scales = _levels(schedule.signal_scale, timesteps)

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :meth:`vader.Sampler.step`. ``original`` is the clean latents, the signal's scale divided out."""
        (alpha, alpha_prev), (scale, scale_prev) = self._alphas[i], self._scales[i]
        std = self._eta * ((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)) ** 0.5
        original = (latents - (1 - alpha) ** 0.5 * model_output) / (alpha**0.5 * scale)
        mean = alpha_prev**0.5 * scale_prev * original + (1 - alpha_prev - std**2) ** 0.5 * model_output
        return StepOutput(mean + std * noise, original, mean, latents.new_full((), std))


def _levels(table: Tensor, timesteps: Tensor) -> list[tuple[float, float]]:
    """Of each step the values before and after it; after the last comes the table's first."""
    import torch

    before = table.double().cpu()[timesteps]
    after = torch.cat([before[1:], table[:1].double().cpu()])
    return list(zip(before.tolist(), after.tolist(), strict=True))
