"""CogVideoX's solver against diffusers' scheduler, fed the same noise."""

import pytest
import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.schedulers import scheduling_dpm_cogvideox

import vader.testing
from vader import NoiseSchedule, Options, SamplerContext, Video
from vader_diffusers.cogvideox_dpm import CogVideoXDPM


class TestSampler(vader.testing.SamplerContract):
    """The kit's checks, but for those that need a step without noise."""

    expected_failures = {
        "eta_0_is_deterministic": "it adds noise in every step, as diffusers' scheduler does",
        "the_solution_is_approached": "it solves the SDE, whose clips have the right distribution on other ways",
    }

    @pytest.fixture
    def sampler(self):
        return "cogvideox_dpm"


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("steps", [2, 5, 25])
def test_steps_equal_the_scheduler(kind, steps, monkeypatch):
    zero_snr = kind == "v_prediction"
    config = {"prediction_type": kind, "rescale_betas_zero_snr": zero_snr, "timestep_spacing": "trailing"}
    theirs = CogVideoXDPMScheduler(**config, clip_sample=False)
    theirs.set_timesteps(steps)
    schedule = NoiseSchedule("v" if zero_snr else "epsilon", theirs.alphas_cumprod.double(), config=dict(theirs.config))
    ours = CogVideoXDPM(Options(), SamplerContext(schedule, steps, 0.0, Video(1, 8, 8), torch.device("cpu")))
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(steps, 1, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    output = torch.randn(steps, 1, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    found = expected = torch.randn(1, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    old = None
    for i, time in enumerate(theirs.timesteps):
        monkeypatch.setattr(scheduling_dpm_cogvideox, "randn_tensor", lambda *_, i=i, **__: noise[i])
        back = theirs.timesteps[i - 1] if i else None
        expected, old = theirs.step(output[i], old, time, back, expected, return_dict=False)
        made = ours.step(output[i], i, found, noise[i])
        found = made.prev
        torch.testing.assert_close(made.pred_x0, old, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
