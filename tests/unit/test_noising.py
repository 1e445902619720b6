"""Noise levels and predictions at any timestep of training."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tests.fakes import fake_schedule

from vader.diffusion.noising import add_noise, draw_timestep, predicted_clean, target
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.protocols import NoiseSchedule, Prediction, SamplerContext, Video

PREDICTIONS: list[Prediction] = ["epsilon", "v", "sample", "flow"]


def normal(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_levels_of_the_variance_preserving_process() -> None:
    schedule = fake_schedule("epsilon")
    assert schedule.alphas_cumprod is not None
    signal, sigma = schedule.levels(torch.tensor([0, 999]))
    assert signal.square() + sigma.square() == pytest.approx([1.0, 1.0])
    assert float(signal[0]) == pytest.approx((1 - 0.00085) ** 0.5)
    assert float(sigma[1]) == pytest.approx(float((1 - schedule.alphas_cumprod[999]) ** 0.5))


def test_levels_of_a_flow() -> None:
    signal, sigma = NoiseSchedule("flow").levels(torch.tensor([250.0, 1000.0]))
    assert signal.tolist() == [0.75, 0.0]
    assert sigma.tolist() == [0.25, 1.0]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_leads_back_to_the_clean_latents(prediction: Prediction) -> None:
    schedule, clean, noise = fake_schedule(prediction), normal(0), normal(1)
    timestep = torch.tensor([40, 700])
    latents = add_noise(schedule, clean, noise, timestep)
    wanted = target(schedule, clean, noise, timestep)
    assert not torch.allclose(latents, clean, atol=0.1)
    torch.testing.assert_close(predicted_clean(schedule, wanted, latents, timestep), clean, rtol=0, atol=1e-10)


def test_the_velocity_is_the_derivative_along_the_arc() -> None:
    """v = d latents / d phi with signal = cos phi, sigma = sin phi (arXiv 2202.00512, appendix D)."""
    schedule, clean, noise = fake_schedule("v"), normal(0), normal(1)
    signal, sigma = schedule.levels(torch.tensor([300]))
    phi, step = torch.atan2(sigma, signal), 1e-6
    ahead, behind = ((phi + d).cos() * clean + (phi + d).sin() * noise for d in (step, -step))
    found = target(schedule, clean, noise, torch.tensor([300, 300]))
    torch.testing.assert_close(found, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_the_latents(dtype: torch.dtype) -> None:
    clean, noise = normal(0).to(dtype), normal(1).to(dtype)
    assert add_noise(fake_schedule("flow"), clean, noise, torch.tensor([40.0, 70.0])).dtype == dtype


def test_timesteps_cover_training() -> None:
    rng = random.Random(0)
    drawn = [draw_timestep(fake_schedule("epsilon"), rng) for _ in range(20000)]
    assert all(isinstance(t, int) for t in drawn)
    assert (min(drawn), max(drawn)) == (0, 999)
    assert sum(drawn) / len(drawn) == pytest.approx(499.5, abs=10)


def test_timesteps_of_a_shifted_flow() -> None:
    """The median of sigma is that of the shifted 1/2."""
    rng, shift = random.Random(0), 3.0
    drawn = sorted(draw_timestep(fake_schedule("flow", shift=shift), rng) for _ in range(20001))
    assert 0 <= drawn[0] < drawn[-1] <= 1000
    assert drawn[10000] == pytest.approx(1000 * shift * 0.5 / (1 + (shift - 1) * 0.5), abs=10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_samplers_mean_the_same_by_clean_latents(prediction: Prediction) -> None:
    """The clean latents of a sampler's step are those of :func:`predicted_clean` at its timestep."""
    schedule = fake_schedule(prediction)
    kind: Any = FlowEuler if prediction == "flow" else DDIM
    sampler = kind(kind.Options(), SamplerContext(schedule, 6, 0.5, Video(2, 8, 8), torch.device("cpu")))
    output, latents = normal(0), normal(1)
    for i, timestep in enumerate(sampler.timesteps):
        step = sampler.step(output, i, latents, normal(2))
        found = predicted_clean(schedule, output, latents, timestep.expand(2))
        torch.testing.assert_close(found, step.pred_x0, rtol=1e-6, atol=1e-6)
