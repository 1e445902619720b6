"""The ideal denoiser of Gaussian data, in closed form: what a sampler is measured against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vader.protocols import NoiseSchedule, Prediction


def noise_schedule(prediction: Prediction, train_timesteps: int = 1000) -> NoiseSchedule:
    """A schedule of the kind: Stable Diffusion's (betas linear in their root), or a flow's without shift."""
    if prediction == "flow":
        return NoiseSchedule("flow", train_timesteps=train_timesteps)
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, train_timesteps, dtype=torch.float64)
    return NoiseSchedule(prediction, torch.cumprod(1 - roots * roots, dim=0), train_timesteps)


def levels(schedule: NoiseSchedule, timestep: float) -> tuple[float, float]:
    """Signal and noise level at a timestep, between whole ones by interpolation: ``x = alpha clean + sigma noise``."""
    if schedule.alphas_cumprod is None:
        sigma = timestep / schedule.train_timesteps
        return 1 - sigma, sigma
    table = schedule.alphas_cumprod
    low = min(max(int(timestep), 0), len(table) - 1)
    high = min(low + 1, len(table) - 1)
    alpha = float(table[low]) + (timestep - low) * float(table[high] - table[low])
    return float(alpha**0.5), float((1 - alpha) ** 0.5)


@dataclass(frozen=True)
class Gaussian:
    """Data ``N(mean, std^2)``, independent in every element, seen through a noise schedule.

    The posterior mean of the clean value is ``mean + std^2 alpha (x - alpha mean) / (alpha^2 std^2 + sigma^2)``, and
    the probability-flow ODE keeps quantiles, so the true solution is known at every noise level.
    """

    schedule: NoiseSchedule
    mean: float
    std: float

    def start(self, timestep: float, z: Tensor) -> Tensor:
        """The latents at a timestep whose quantiles are ``z``'s."""
        alpha, sigma = levels(self.schedule, timestep)
        spread: float = (alpha**2 * self.std**2 + sigma**2) ** 0.5
        return alpha * self.mean + spread * z

    def predict(self, x: Tensor, timestep: float) -> Tensor:
        """What the ideal denoiser predicts."""
        alpha, sigma = levels(self.schedule, timestep)
        gain = self.std**2 * alpha / (alpha**2 * self.std**2 + sigma**2)
        clean = self.mean + gain * (x - alpha * self.mean)
        noise = (x - alpha * clean) / sigma
        kinds = {"epsilon": noise, "v": alpha * noise - sigma * clean, "sample": clean, "flow": noise - clean}
        return kinds[self.schedule.prediction]

    def end(self, z: Tensor) -> Tensor:
        """The clean values whose quantiles are ``z``'s."""
        return self.mean + self.std * z
