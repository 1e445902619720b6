"""Between clean latents, noise and predictions, at any timestep of training.

Source: Ho et al. 2020, arXiv 2006.11239, eq. 4; Salimans and Ho 2022, arXiv 2202.00512, appendix D; Liu et al. 2022,
arXiv 2209.03003, eq. 1.
"""

from __future__ import annotations

import random

from torch import Tensor

from vader.protocols import NoiseSchedule
from vader.shapes import Latents


def _levels(schedule: NoiseSchedule, timestep: Tensor, like: Latents) -> tuple[Tensor, Tensor]:
    """Signal and noise level, each ``(b 1 ...)`` in the latents' dtype."""
    signal, sigma = schedule.levels(timestep)
    shape = (-1, *[1] * (like.ndim - 1))
    return signal.to(like).reshape(shape), sigma.to(like).reshape(shape)


def add_noise(schedule: NoiseSchedule, clean: Latents, noise: Tensor, timestep: Tensor) -> Latents:
    """Latents of a timestep ``(b,)`` from clean latents and unit noise, each ``(b ...)``."""
    signal, sigma = _levels(schedule, timestep, clean)
    return signal * clean + sigma * noise


def target(schedule: NoiseSchedule, clean: Latents, noise: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect denoiser predicts for latents made by :func:`add_noise`, ``(b ...)``."""
    if schedule.prediction == "epsilon":
        return noise
    if schedule.prediction == "sample":
        return clean
    if schedule.prediction == "flow":
        return noise - clean
    signal, sigma = _levels(schedule, timestep, clean)
    return signal * noise - sigma * clean


def predicted_clean(schedule: NoiseSchedule, prediction: Tensor, latents: Latents, timestep: Tensor) -> Latents:
    """The clean latents that a prediction means, ``(b ...)``."""
    signal, sigma = _levels(schedule, timestep, latents)
    if schedule.prediction == "epsilon":
        return (latents - sigma * prediction) / signal
    if schedule.prediction == "sample":
        return prediction
    if schedule.prediction == "flow":
        return latents - sigma * prediction
    return signal * latents - sigma * prediction


def draw_timestep(schedule: NoiseSchedule, rng: random.Random) -> float:
    """A timestep of training, uniform; a flow's is shifted as its sampler's are."""
    if schedule.alphas_cumprod is not None:
        return rng.randrange(schedule.train_timesteps)
    sigma = rng.random()
    return schedule.shift * sigma / (1 + (schedule.shift - 1) * sigma) * schedule.train_timesteps
