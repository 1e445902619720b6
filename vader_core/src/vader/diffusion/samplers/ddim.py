"""DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader.protocols import Prediction, SamplerContext, StepOutput
from vader.spec import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.shapes import Latents


class DDIMOptions(Options):
    """Options of :class:`DDIM`."""

    spacing: Literal["leading", "trailing", "linspace"] | None = Field(
        None, description="How timesteps are spread over training's. Null: as the checkpoint's scheduler, or leading."
    )
    offset: int | None = Field(
        None, ge=0, description="Added to leading timesteps. Null: as the checkpoint's scheduler, or 1."
    )
    final_alpha_one: bool | None = Field(
        None,
        description="The last step goes to alpha 1 rather than to the first training alpha. Null: as the checkpoint's "
        "scheduler, or false.",
    )


class DDIM:
    """DDIM with eta: 0 is deterministic, 1 has the variance of DDPM. Its steps give mean and standard deviation."""

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "v", "sample")
    stochastic: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    Options = DDIMOptions

    def __init__(self, options: DDIMOptions, context: SamplerContext) -> None:
        import torch

        schedule = context.schedule
        assert schedule.alphas_cumprod is not None
        assert schedule.prediction in self.predictions
        self._prediction = schedule.prediction
        self._eta = context.eta
        self.needs_noise = context.eta > 0
        total, options = schedule.train_timesteps, _resolved(options, schedule.config)
        timesteps = _timesteps(options, context.steps, total)
        self.timesteps = timesteps.to(context.device)
        alphas = schedule.alphas_cumprod.double()
        self._alpha: list[float] = alphas[timesteps].tolist()
        final = torch.ones(1, dtype=torch.float64) if options.final_alpha_one else alphas[:1]
        self._alpha_prev: list[float] = torch.cat([alphas[timesteps[1:]], final]).tolist()

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        alpha, alpha_prev = self._alpha[i], self._alpha_prev[i]
        original, epsilon = self._split(model_output, latents, alpha)
        variance = (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
        std = self._eta * max(variance, 0.0) ** 0.5
        mean = alpha_prev**0.5 * original + max(1 - alpha_prev - std**2, 0.0) ** 0.5 * epsilon
        return StepOutput(mean + std * noise, original, mean, latents.new_full((), std))

    def _split(self, output: Tensor, latents: Latents, alpha: float) -> tuple[Tensor, Tensor]:
        """Predicted clean latents and noise, from whatever the denoiser predicts."""
        signal, scale = alpha**0.5, (1 - alpha) ** 0.5
        if self._prediction == "epsilon":
            return (latents - scale * output) / signal, output
        if self._prediction == "v":
            return signal * latents - scale * output, signal * output + scale * latents
        return output, (latents - signal * output) / scale


def _resolved(options: DDIMOptions, scheduler: Mapping[str, Any]) -> DDIMOptions:
    """The options with what they leave to the checkpoint's scheduler."""
    theirs = {
        "spacing": scheduler.get("timestep_spacing", "leading"),
        "offset": scheduler.get("steps_offset", 1),
        "final_alpha_one": scheduler.get("set_alpha_to_one", False),
    }
    return DDIMOptions.model_validate({**theirs, **options.model_dump(exclude_none=True)})


def _timesteps(options: DDIMOptions, steps: int, total: int) -> Tensor:
    """``(steps,)`` descending, always exactly ``steps`` of them.

    Raises:
        ValueError: for more steps than training has.
    """
    import torch

    if steps > total:
        raise ValueError(f"DDIM has at most {total} steps here, found {steps}.")
    if options.spacing == "linspace":
        chosen = torch.linspace(0, total - 1, steps, dtype=torch.float64).round().long()
    elif options.spacing == "trailing":
        chosen = torch.arange(total, 0, -total / steps, dtype=torch.float64)[:steps].round().long().flip(0) - 1
    else:
        chosen = (torch.arange(steps) * (total // steps) + (options.offset or 0)).clamp(max=total - 1)
    return chosen.flip(0)
