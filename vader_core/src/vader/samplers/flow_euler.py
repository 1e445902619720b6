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
    """``x_t = (1 - sigma) clean + sigma noise``; the denoiser predicts ``noise - clean``; sigma runs from 1 to 0.

    Sigmas are linear from 1 to 1 / train_timesteps, then 0, each shifted by ``s sigma / (1 + (s - 1) sigma)``
    (Esser et al. 2024, arXiv 2403.03206, eq. 23), the first and last shifted twice at the ends of training's range as
    diffusers' FlowMatchEulerDiscreteScheduler has it, whose numbers these are.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    stochastic: ClassVar[bool] = False
    Options = FlowEulerOptions

    def __init__(self, options: FlowEulerOptions, context: SamplerContext) -> None:
        import torch

        schedule = context.schedule
        shift = options.shift if options.shift is not None else schedule.shift
        total = schedule.train_timesteps
        low = _shifted(torch.tensor(1 / total, dtype=torch.float64), shift)
        sigmas = _shifted(torch.linspace(1.0, float(low), context.steps, dtype=torch.float64), shift)
        self._sigmas = torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])
        self.timesteps = (sigmas * total).float().to(context.device)

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        sigma, sigma_next = float(self._sigmas[i]), float(self._sigmas[i + 1])
        prev = latents + (sigma_next - sigma) * model_output
        original = latents - sigma * model_output
        return StepOutput(prev, original, prev, latents.new_zeros(()))


def _shifted(sigma: Tensor, shift: float) -> Tensor:
    return shift * sigma / (1 + (shift - 1) * sigma)
