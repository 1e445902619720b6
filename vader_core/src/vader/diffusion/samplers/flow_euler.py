"""Euler steps of a rectified flow (Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv 2210.02747)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vader.protocols import Prediction, SamplerContext, StepOutput
from vader.spec import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.shapes import Latents


class FlowEulerOptions(Options):
    """Options of :class:`FlowEuler`."""

    shift: float | None = Field(None, gt=0, description="Timestep shift. Null: the checkpoint's.")


class FlowEuler:
    """Euler steps; with ``eta`` above 0, steps of the stochastic differential equation of the same marginals.

    ``x_t = (1 - sigma) clean + sigma noise``; the denoiser predicts ``noise - clean``; sigma runs from 1 to 0.

    Sigmas are linear from 1 to 1 / train_timesteps, then 0, each shifted by ``s sigma / (1 + (s - 1) sigma)``
    (Esser et al. 2024, arXiv 2403.03206, eq. 23), the first and last shifted twice at the ends of training's range as
    diffusers' FlowMatchEulerDiscreteScheduler has it, whose numbers these are. A schedule with sigmas of its own has
    those.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    stochastic: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    Options = FlowEulerOptions

    def __init__(self, options: FlowEulerOptions, context: SamplerContext) -> None:
        import torch

        schedule = context.schedule
        self._eta = context.eta
        self.needs_noise = context.eta > 0
        shift = options.shift if options.shift is not None else schedule.shift
        total = schedule.train_timesteps
        if schedule.sigmas is not None:
            sigmas = schedule.sigmas(context.steps, shift)
        else:
            low = shifted(torch.tensor(1 / total, dtype=torch.float64), shift)
            sigmas = shifted(torch.linspace(1.0, float(low), context.steps, dtype=torch.float64), shift)
        self._sigmas: list[float] = [*sigmas.tolist(), 0.0]
        self.timesteps = (sigmas * total).float().to(context.device)

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        return flow_step(model_output, latents, noise, self._sigmas[i], self._sigmas[i + 1], self._eta)


def flow_step(
    output: Tensor, latents: Latents, noise: Tensor, sigma: float, following: float, eta: float
) -> StepOutput:
    """One step of a rectified flow from ``sigma`` to ``following``, below it.

    Noise is added as DDIM adds it (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16), with signal level 1 - sigma: at
    ``eta`` 1 the standard deviation is that of the posterior of the next latents given these and the clean ones, and
    at any ``eta`` the marginals are those of the flow. ``eta`` 0 is the Euler step, exactly. A step to sigma 0 adds no
    noise.

    Args:
        output: ``(b c f h w)``, the predicted ``noise - clean``.
        latents: ``(b c f h w)``.
        noise: unit normal, ``(b c f h w)``.
        sigma: above 0, at most 1.
        following: at least 0.
        eta: 0 to 1.
    """
    import torch

    variance = 0.0
    if following > 0:
        kept = (1 - sigma) / (1 - following) * following
        variance = (following / sigma) ** 2 * max(sigma**2 - kept**2, 0.0)
    std = eta * variance**0.5
    euler = torch.add(latents, output, alpha=following - sigma)
    original = torch.add(latents, output, alpha=-sigma)
    if std == 0.0:
        return StepOutput(euler, original, euler, latents.new_zeros(()))
    predicted_noise = latents + (1 - sigma) * output
    mean = euler + (max(following**2 - std**2, 0.0) ** 0.5 - following) * predicted_noise
    return StepOutput(mean + std * noise, original, mean, latents.new_full((), std))


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Noise levels of a flow with a timestep shift (Esser et al. 2024, arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)
