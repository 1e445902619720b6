"""The sampler: its timesteps, its scale of the signal, and plain DDIM where there is none."""

import pytest
import torch

from vader import NoiseSchedule, SamplerContext, Video
from vader.diffusion.noising import add_noise
from vader.diffusion.samplers.ddim import DDIM, DDIMOptions
from vader.diffusion.samplers.diffusers import DiffusersOptions, DiffusersScheduler
from vader_videocrafter.sampler import VideoCrafterDDIM, VideoCrafterDDIMOptions
from vader_videocrafter.schedule import ScaledSchedule


def context(schedule, steps=4, eta=0.0):
    return SamplerContext(schedule, steps, eta, Video(4, 16, 16, 24.0), torch.device("cpu"))


def ddim(schedule, steps=4, eta=0.0, **options):
    return VideoCrafterDDIM(VideoCrafterDDIMOptions(**options), context(schedule, steps, eta))


@pytest.mark.parametrize("steps", [1, 3, 7, 9, 16, 30, 300, 600, 999])
def test_as_many_steps_as_asked_for_over_all_of_training(backbone, steps):
    times = ddim(backbone.schedule, steps).timesteps
    assert len(times) == len(times.unique()) == steps
    assert times.tolist() == sorted(times.tolist(), reverse=True)
    assert int(times[-1]) == 1
    assert int(times[0]) > 999 - 1000 / steps


def test_too_many_steps(backbone):
    with pytest.raises(ValueError, match="fewer than 1000 steps, found 1000"):
        ddim(backbone.schedule, 1000)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_without_a_scale_it_is_ddim(backbone, eta):
    """On the older checkpoint, and on the newer with ``use_scale`` off, each step is the core's DDIM."""
    plain = NoiseSchedule("epsilon", backbone.schedule.alphas_cumprod)
    other = DDIM(DDIMOptions(), context(plain, 5, eta))
    x, output, draw = torch.randn(3, 1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    for schedule, options in ((plain, {}), (ScaledSchedule("epsilon", plain.alphas_cumprod), {})):
        made = ddim(schedule, 5, eta, **options)
        assert torch.equal(made.timesteps, other.timesteps)
        for i in range(5):
            torch.testing.assert_close(made.step(output, i, x, draw).prev, other.step(output, i, x, draw).prev)
    off, on = ddim(backbone.schedule, 5, eta, use_scale=False), ddim(backbone.schedule, 5, eta)
    torch.testing.assert_close(off.step(output, 3, x, draw).prev, other.step(output, 3, x, draw).prev)
    assert not torch.allclose(on.step(output, 3, x, draw).prev, off.step(output, 3, x, draw).prev)


def test_the_scale_recovers_clean_latents(backbone):
    """``original`` is exact for the true noise, whatever the scale of the signal."""
    clean, draw = torch.randn(
        2, 1, 4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    made = ddim(backbone.schedule, 5)
    for i, t in enumerate(made.timesteps.tolist()):
        alpha, scale = backbone.schedule.alphas_cumprod[t], backbone.schedule.signal_scale[t]
        latents = alpha.sqrt() * scale * clean + (1 - alpha).sqrt() * draw
        torch.testing.assert_close(made.step(draw, i, latents, draw).pred_x0, clean)


def test_diffusers_schedulers_take_the_schedule(backbone):
    made = DiffusersScheduler(DiffusersOptions(scheduler="DDIMScheduler"), context(backbone.schedule, 5))
    assert made.timesteps.tolist() == ddim(backbone.schedule, 5).timesteps.tolist()


def test_noise_levels_are_those_that_the_sampler_undoes(backbone):
    """Clean latents noised at a step's timestep come back as its clean prediction, the signal's scale divided out."""
    schedule, sampler = backbone.schedule, ddim(backbone.schedule)
    assert schedule.signal_scale is not None
    clean, noise = torch.randn(2, 1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i, timestep in enumerate(sampler.timesteps):
        latents = add_noise(schedule, clean, noise, timestep[None])
        found = sampler.step(noise, i, latents, torch.zeros_like(noise)).pred_x0
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-9)
