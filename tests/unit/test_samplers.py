"""Built-in samplers against closed forms and against diffusers, whose numbers they promise."""

from __future__ import annotations

import dataclasses
from typing import Any

import diffusers
import pytest
import torch
from tests.fakes import GaussianDenoiser, fake_schedule, scaled_linear
from torch import Tensor

from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.diffusers import DiffusersScheduler
from vader.diffusion.samplers.flow_euler import FlowEuler, flow_step
from vader.diffusion.samplers.pipeline import PipelineScheduler
from vader.protocols import NoiseSchedule, Prediction, Sampler, SamplerContext, Video

ALPHAS = scaled_linear()
SHAPE = (2, 3, 2, 2, 2)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TYPES = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


def randn(seed: int, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def context(schedule: NoiseSchedule, steps: int, eta: float = 0.0) -> SamplerContext:
    return SamplerContext(schedule, steps, eta, Video(2, 8, 8), torch.device("cpu"))


def ddim(steps: int, prediction: Prediction = "epsilon", eta: float = 0.0, **options: Any) -> DDIM:
    return DDIM(DDIM.Options(**options), context(fake_schedule(prediction), steps, eta))


def flow(steps: int, shift: float) -> FlowEuler:
    return FlowEuler(FlowEuler.Options(), context(fake_schedule("flow", shift=shift), steps))


def adapted(
    scheduler: str, schedule: NoiseSchedule, steps: int = 10, eta: float = 0.0, **config: Any
) -> DiffusersScheduler:
    options = DiffusersScheduler.Options(scheduler=scheduler, config=config)
    return DiffusersScheduler(options, context(schedule, steps, eta))


def field(x: Tensor, t: Tensor) -> Tensor:
    """Any smooth denoiser."""
    return torch.tanh(x * 0.7 + torch.sin(t.to(x.dtype) / 200))


def run(sampler: Sampler, start: Tensor, noises: list[Tensor] | None = None) -> list[Tensor]:
    """Latents after each step of a denoiser that is :func:`field`."""
    found, x = [], start
    for i, t in enumerate(sampler.timesteps):
        x = sampler.step(field(x, t), i, x, noises[i] if noises else torch.zeros_like(x)).prev
        found.append(x)
    return found


def levels(alpha: float | Tensor) -> tuple[float, float]:
    return float(alpha) ** 0.5, (1 - float(alpha)) ** 0.5


class TestDDIMTimesteps:
    @pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
    def test_are_exactly_as_many_as_the_steps(self, spacing: str) -> None:
        for steps in range(1, 51):
            found = ddim(steps, spacing=spacing).timesteps
            assert found.shape == (steps,)
            assert found.min() >= 0
            assert found.max() <= 999
            assert (found.diff() < 0).all()

    def test_leading_are_the_references(self) -> None:
        assert ddim(4).timesteps.tolist() == [751, 501, 251, 1]

    @pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
    @pytest.mark.parametrize("steps", [1, 3, 9, 16, 25, 30, 50])
    def test_are_those_of_diffusers(self, spacing: str, steps: int) -> None:
        theirs = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
        theirs.set_timesteps(steps)
        assert ddim(steps, spacing=spacing).timesteps.tolist() == theirs.timesteps.tolist()

    def test_cannot_be_more_than_in_training(self) -> None:
        assert len(ddim(1000).timesteps) == 1000
        with pytest.raises(ValueError, match="at most 1000 steps here, found 1001"):
            ddim(1001)


class TestDDIMAgainstClosedForms:
    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    def test_follows_a_point_mass_exactly(self, prediction: Prediction) -> None:
        """One clean value: the ODE is a straight line in noise level, and DDIM takes it without error."""
        sampler, truth = ddim(7, prediction), GaussianDenoiser(prediction, 0.8, 0.0)
        x, start = randn(0), levels(ALPHAS[ddim(7).timesteps[0]])
        begin = x
        for i, t in enumerate(sampler.timesteps):
            out = sampler.step(truth(x, *levels(ALPHAS[t])), i, x, torch.zeros_like(x))
            after = ALPHAS[sampler.timesteps[i + 1]] if i < 6 else ALPHAS[0]
            x = out.prev
            torch.testing.assert_close(x, truth.flow_map(begin, start, levels(after)), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(out.pred_x0, torch.full_like(x, 0.8), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    def test_converges_to_the_ode_at_first_order(self, prediction: Prediction) -> None:
        errors = []
        for steps in (50, 100, 200):
            sampler, truth = ddim(steps, prediction, spacing="linspace"), GaussianDenoiser(prediction, 0.3, 0.5)
            x = begin = randn(1)
            for i, t in enumerate(sampler.timesteps):
                x = sampler.step(truth(x, *levels(ALPHAS[t])), i, x, torch.zeros_like(x)).prev
            exact = truth.flow_map(begin, levels(ALPHAS[-1]), levels(ALPHAS[0]))
            errors.append((x - exact).abs().max().item())
        assert errors[0] < 0.1
        assert errors[1] < 0.6 * errors[0]
        assert errors[2] < 0.6 * errors[1]

    @pytest.mark.parametrize("i", [0, 3, 8])
    def test_eta_1_is_the_gaussian_posterior(self, i: int) -> None:
        """``q(x_prev | x_t, x_0)`` by Bayes' rule from ``q(x_prev | x_0)`` and ``q(x_t | x_prev)``."""
        sampler = ddim(10, "sample", eta=1.0)
        x, clean = randn(2), randn(3)
        a, b = float(ALPHAS[sampler.timesteps[i]]), float(ALPHAS[sampler.timesteps[i + 1]])
        precision = 1 / (1 - b) + (a / b) / (1 - a / b)
        mean = (b**0.5 * clean / (1 - b) + (a / b) ** 0.5 * x / (1 - a / b)) / precision
        out = sampler.step(clean, i, x, randn(4))
        torch.testing.assert_close(out.mean, mean, rtol=1e-10, atol=1e-10)
        assert float(out.std) == pytest.approx(precision**-0.5, rel=1e-6)

    def test_eta_scales_the_standard_deviation(self) -> None:
        stds = [float(ddim(10, eta=eta).step(randn(0), 4, randn(1), randn(2)).std) for eta in (0.0, 0.25, 1.0)]
        assert stds[0] == 0
        assert stds[1] == pytest.approx(0.25 * stds[2])

    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_keeps_the_variance_of_standard_normal_data(self, eta: float) -> None:
        """With clean data N(0, 1) the latents are N(0, 1) at every noise level, whatever eta."""
        sampler = ddim(10, "sample", eta=eta, final_alpha_one=True)
        for i, t in enumerate(sampler.timesteps):
            alpha = float(ALPHAS[t])
            one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
            by_clean, by_x = sampler.step(one, i, zero, zero).mean, sampler.step(zero, i, one, zero).mean
            std = float(sampler.step(zero, i, zero, zero).std)
            variance = by_clean**2 + by_x**2 + 2 * alpha**0.5 * by_clean * by_x + std**2
            assert float(variance) == pytest.approx(1, abs=1e-6)


class TestDDIMSteps:
    @pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_prev_is_mean_plus_std_times_noise(self, eta: float, prediction: Prediction, dtype: torch.dtype) -> None:
        sampler, noise = ddim(10, prediction, eta), randn(2, dtype)
        for i in (0, 5, 9):
            out = sampler.step(randn(0, dtype), i, randn(1, dtype), noise)
            torch.testing.assert_close(out.prev, out.mean + out.std * noise, rtol=0, atol=4 * torch.finfo(dtype).eps)
            assert (out.prev.dtype, out.mean.dtype, out.pred_x0.dtype, out.std.ndim) == (dtype, dtype, dtype, 0)
            assert torch.equal(out.prev, out.mean) == (eta == 0)

    def test_the_last_goes_to_the_first_alpha_of_training(self) -> None:
        sampler, truth, x = ddim(5), GaussianDenoiser("epsilon", 0.8, 0.0), randn(0)
        t = sampler.timesteps[-1]
        prev = sampler.step(truth(x, *levels(ALPHAS[t])), 4, x, x).prev
        expected = truth.flow_map(x, levels(ALPHAS[t]), levels(ALPHAS[0]))
        torch.testing.assert_close(prev, expected, rtol=1e-10, atol=1e-10)
        assert (prev - 0.8).abs().max() > 1e-3

    def test_the_last_goes_to_alpha_one_where_asked(self) -> None:
        sampler, truth, x = ddim(5, eta=1.0, final_alpha_one=True), GaussianDenoiser("epsilon", 0.8, 0.0), randn(0)
        out = sampler.step(truth(x, *levels(ALPHAS[sampler.timesteps[-1]])), 4, x, randn(1))
        torch.testing.assert_close(out.prev, torch.full_like(x, 0.8), rtol=1e-10, atol=1e-10)
        assert out.std == 0

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    @pytest.mark.parametrize(("spacing", "steps"), [("leading", 10), ("leading", 16), ("trailing", 20)])
    def test_are_those_of_diffusers(self, eta: float, prediction: Prediction, spacing: str, steps: int) -> None:
        ours = ddim(steps, prediction, eta, spacing=spacing)
        assert_equals_diffusers_ddim(ours, prediction, eta, steps, spacing, total=1000)

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    def test_are_those_of_diffusers_for_linspace_where_its_strides_agree(self, eta: float) -> None:
        """Its strides are ``total // steps`` even where its linspace timesteps lie further apart; ours end at the next
        timestep. The two agree where the stride is 1."""
        schedule = NoiseSchedule("v", scaled_linear(12), train_timesteps=12)
        ours = DDIM(DDIM.Options(spacing="linspace"), context(schedule, 12, eta))
        assert_equals_diffusers_ddim(ours, "v", eta, 12, "linspace", total=12)

    @pytest.mark.parametrize("spacing", ["linspace", "trailing"])
    def test_go_to_the_timestep_that_comes_next(self, spacing: str) -> None:
        sampler, truth, x = ddim(7, spacing=spacing), GaussianDenoiser("epsilon", 0.8, 0.0), randn(0)
        here, there = (levels(ALPHAS[sampler.timesteps[i]]) for i in (2, 3))
        prev = sampler.step(truth(x, *here), 2, x, x).prev
        torch.testing.assert_close(prev, truth.flow_map(x, here, there), rtol=1e-10, atol=1e-10)

    def test_are_finite_at_a_timestep_without_signal(self) -> None:
        alphas = torch.cat([ALPHAS[:-1], torch.zeros(1, dtype=torch.float64)])
        sampler = DDIM(DDIM.Options(spacing="trailing"), context(NoiseSchedule("v", alphas), 4, 1.0))
        out = sampler.step(randn(0), 0, randn(1), randn(2))
        assert out.prev.isfinite().all()
        torch.testing.assert_close(out.pred_x0, -randn(0))


def assert_equals_diffusers_ddim(ours: DDIM, prediction: str, eta: float, steps: int, spacing: str, total: int) -> None:
    theirs = diffusers.DDIMScheduler(
        num_train_timesteps=total, prediction_type=TYPES[prediction], timestep_spacing=spacing, clip_sample=False,
        steps_offset=1 if spacing == "leading" else 0, set_alpha_to_one=False, **BETAS,
    )  # fmt: skip
    theirs.set_timesteps(steps)
    x = y = randn(0)
    for i, t in enumerate(theirs.timesteps):
        noise = randn(10 + i)
        x = ours.step(field(x, ours.timesteps[i]), i, x, noise).prev
        y = theirs.step(field(y, t), t, y, eta=eta, variance_noise=noise if eta else None).prev_sample
        torch.testing.assert_close(x, y, rtol=2e-5, atol=2e-5)


class TestFlowEuler:
    @pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
    @pytest.mark.parametrize("steps", [1, 2, 10, 30])
    def test_is_that_of_diffusers(self, shift: float, steps: int) -> None:
        ours = flow(steps, shift)
        theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        theirs.set_timesteps(steps)
        torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=1e-6, atol=1e-4)
        x = y = randn(0)
        for i, t in enumerate(theirs.timesteps):
            x = ours.step(field(x, t), i, x, randn(1)).prev
            y = theirs.step(field(y, t), t, y).prev_sample
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)

    def test_takes_its_own_shift_before_the_checkpoints(self) -> None:
        schedule = fake_schedule("flow", shift=3.0)
        asked = FlowEuler(FlowEuler.Options(shift=5.0), context(schedule, 4)).timesteps
        assert torch.equal(asked, flow(4, 5.0).timesteps)
        assert not torch.equal(asked, flow(4, 3.0).timesteps)

    def test_has_as_many_timesteps_as_steps(self) -> None:
        for steps in range(1, 51):
            found = flow(steps, 3.0).timesteps
            assert found.shape == (steps,)
            assert found[0] == 1000
            assert (found.diff() < 0).all()

    def test_follows_a_point_mass_exactly_to_clean(self) -> None:
        sampler, truth, x = flow(6, 3.0), GaussianDenoiser("flow", 0.8, 0.0), randn(0)
        for i, t in enumerate(sampler.timesteps.double()):
            sigma = float(t) / 1000
            out = sampler.step(truth(x, 1 - sigma, sigma), i, x, randn(1))
            torch.testing.assert_close(out.pred_x0, torch.full_like(x, 0.8), rtol=1e-6, atol=1e-6)
            x = out.prev
        torch.testing.assert_close(x, torch.full_like(x, 0.8), rtol=1e-6, atol=1e-6)

    def test_converges_to_the_ode_at_first_order(self) -> None:
        errors = []
        for steps in (40, 80, 160):
            sampler, truth = flow(steps, 1.0), GaussianDenoiser("flow", 0.3, 0.5)
            x = begin = randn(1)
            for i, t in enumerate(sampler.timesteps.double() / 1000):
                x = sampler.step(truth(x, 1 - float(t), float(t)), i, x, x).prev
            errors.append((x - truth.flow_map(begin, (0.0, 1.0), (1.0, 0.0))).abs().max().item())
        assert errors[0] < 0.1
        assert errors[1] < 0.6 * errors[0]
        assert errors[2] < 0.6 * errors[1]

    def test_is_deterministic_without_eta(self) -> None:
        one, other = (flow(5, 1.0).step(randn(0), 2, randn(1), noise) for noise in (randn(2), randn(3)))
        assert torch.equal(one.prev, other.prev)
        assert torch.equal(one.mean, one.prev)
        assert one.std == 0

    @pytest.mark.parametrize(("sigma", "following"), [(1.0, 0.6), (0.6, 0.25), (0.25, 0.001), (0.4, 0.0)])
    @pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
    def test_eta_keeps_the_noise_level(self, sigma: float, following: float, eta: float) -> None:
        """With the true velocity of known clean latents, what comes out is (1 - following) clean + following noise."""
        clean, noise, fresh = randn(0).double(), randn(1).double(), randn(2).double()
        latents = (1 - sigma) * clean + sigma * noise
        step = flow_step(noise - clean, latents, fresh, sigma, following, eta)
        kept = step.mean - (1 - following) * clean
        torch.testing.assert_close(kept, kept.flatten()[0] / noise.flatten()[0] * noise, rtol=0, atol=1e-9)
        level = (kept.flatten()[0] / noise.flatten()[0]) ** 2 + step.std.double() ** 2
        assert float(level) == pytest.approx(following**2, abs=1e-9)
        torch.testing.assert_close(step.prev, step.mean + step.std * fresh, rtol=0, atol=1e-12)
        torch.testing.assert_close(step.pred_x0, clean, rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("sigma", "following"), [(1.0, 0.6), (0.6, 0.25), (0.25, 0.001)])
    def test_eta_1_has_the_variance_of_the_posterior(self, sigma: float, following: float) -> None:
        """Of the next latents given these and the clean ones: two Gaussians multiplied."""
        factor = (1 - sigma) / (1 - following)
        added = sigma**2 - factor**2 * following**2
        variance = 1 / (1 / following**2 + factor**2 / added)
        zero = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
        assert float(flow_step(zero, zero, zero, sigma, following, 1.0).std) == pytest.approx(variance**0.5, rel=1e-6)
        half = float(flow_step(zero, zero, zero, sigma, following, 0.5).std)
        assert half == pytest.approx(0.5 * variance**0.5, rel=1e-6)


VP, FLOW = fake_schedule(), fake_schedule("flow", shift=3.0)
SCALED = diffusers.DPMSolverMultistepScheduler(**BETAS)
ADAPTED: dict[str, tuple[str, NoiseSchedule, dict[str, Any], Any]] = {
    "dpm++ 2m": ("DPMSolverMultistepScheduler", VP, {}, SCALED),
    "dpm++ 3m v trailing": (
        "DPMSolverMultistepScheduler",
        fake_schedule("v"),
        {"solver_order": 3, "timestep_spacing": "trailing"},
        diffusers.DPMSolverMultistepScheduler(
            solver_order=3, timestep_spacing="trailing", prediction_type="v_prediction", **BETAS
        ),
    ),
    "unipc flow": (
        "UniPCMultistepScheduler",
        FLOW,
        {},
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ),
    "flow euler": (
        "FlowMatchEulerDiscreteScheduler",
        FLOW,
        {},
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ),
    "euler": (
        "EulerDiscreteScheduler",
        VP,
        {"timestep_spacing": "leading", "steps_offset": 1},
        diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **BETAS),
    ),
    "euler karras v": (
        "EulerDiscreteScheduler",
        fake_schedule("v"),
        {"timestep_spacing": "leading", "use_karras_sigmas": True},
        diffusers.EulerDiscreteScheduler(
            timestep_spacing="leading", use_karras_sigmas=True, prediction_type="v_prediction", **BETAS
        ),
    ),
    "ddim": (
        "DDIMScheduler",
        VP,
        {"steps_offset": 1, "set_alpha_to_one": False},
        diffusers.DDIMScheduler(steps_offset=1, set_alpha_to_one=False, clip_sample=False, **BETAS),
    ),
}


def plain_loop(scheduler: Any, steps: int, start: Tensor) -> Tensor:
    """Denoising as every diffusers pipeline writes it."""
    scheduler.set_timesteps(steps)
    x = start * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else start
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(field(seen, t), t, x, return_dict=False)[0]
    return x


class TestDiffusersScheduler:
    @pytest.mark.parametrize("case", ADAPTED)
    @pytest.mark.parametrize("steps", [4, 10, 20])
    def test_is_the_plain_diffusers_loop(self, case: str, steps: int) -> None:
        name, schedule, config, scheduler = ADAPTED[case]
        ours = adapted(name, schedule, steps, **config)
        start = randn(0, torch.float32)
        expected = plain_loop(scheduler, steps, start)
        torch.testing.assert_close(ours.timesteps, scheduler.timesteps, rtol=0, atol=1e-3)
        torch.testing.assert_close(run(ours, start)[-1], expected, rtol=5e-4, atol=5e-4)

    @pytest.mark.parametrize("case", ADAPTED)
    def test_starts_anew_at_step_0(self, case: str) -> None:
        name, schedule, config, _ = ADAPTED[case]
        sampler, start = adapted(name, schedule, 6, **config), randn(0)
        first = run(sampler, start)
        sampler.step(randn(1), 0, start, start)
        sampler.step(randn(2), 1, start, start)
        assert all(torch.equal(a, b) for a, b in zip(first, run(sampler, start), strict=True))

    def test_refuses_steps_out_of_order(self) -> None:
        sampler = adapted("UniPCMultistepScheduler", FLOW)
        sampler.step(randn(0), 0, randn(1), randn(2))
        with pytest.raises(AssertionError, match="1 is next, found 2"):
            sampler.step(randn(0), 2, randn(1), randn(2))

    @pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
    def test_original_is_what_the_scheduler_itself_takes_it_for(self, prediction: Prediction) -> None:
        for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
            assert_original_agrees(adapted(name, fake_schedule(prediction)))

    @pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
    def test_original_of_a_flow_is_what_the_scheduler_itself_takes_it_for(self, name: str) -> None:
        assert_original_agrees(adapted(name, FLOW))

    @pytest.mark.parametrize("case", ["euler", "ddim", "flow euler"])
    def test_original_of_a_point_mass_is_the_point(self, case: str) -> None:
        name, schedule, config, _ = ADAPTED[case]
        sampler, truth, x = adapted(name, schedule, **config), GaussianDenoiser(schedule.prediction, 0.8, 0.0), randn(0)
        for i, t in enumerate(sampler.timesteps.tolist()):
            level = (1 - t / 1000, t / 1000) if schedule is FLOW else levels(ALPHAS[int(t)])
            out = sampler.step(truth(x, *level), i, x, x)
            torch.testing.assert_close(out.pred_x0, torch.full_like(x, 0.8), rtol=1e-3, atol=1e-3)
            x = out.prev

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("case", ADAPTED)
    def test_keeps_the_dtype_of_the_latents(self, case: str, dtype: torch.dtype) -> None:
        name, schedule, config, _ = ADAPTED[case]
        sampler = adapted(name, schedule, 4, **config)
        for i in range(4):
            out = sampler.step(randn(0, torch.bfloat16), i, randn(1, dtype), randn(2, dtype))
            assert {out.prev.dtype, out.mean.dtype, out.pred_x0.dtype, out.std.dtype} == {dtype}

    @pytest.mark.parametrize("case", ADAPTED)
    def test_computes_half_precision_outputs_in_the_dtype_of_the_latents(self, case: str) -> None:
        name, schedule, config, _ = ADAPTED[case]
        half, full, x = randn(0, torch.bfloat16), randn(0, torch.bfloat16).float(), randn(1, torch.float32)
        low, high = (adapted(name, schedule, 4, **config).step(output, 0, x, x) for output in (half, full))
        assert torch.equal(low.prev, high.prev)
        assert torch.equal(low.pred_x0, high.pred_x0)

    @pytest.mark.parametrize("case", ADAPTED)
    def test_carries_gradient_to_latents_and_model_outputs(self, case: str) -> None:
        name, schedule, config, _ = ADAPTED[case]
        sampler = adapted(name, schedule, 5, **config)
        outputs, start = [randn(i).requires_grad_() for i in range(5)], randn(9).requires_grad_()
        x = start
        for i, output in enumerate(outputs):
            x = sampler.step(output, i, x, torch.zeros_like(x)).prev
        gradients = torch.autograd.grad(x.sum(), [start, *outputs])
        assert all(g.abs().max() > 0 for g in gradients)

    @pytest.mark.parametrize("case", ADAPTED)
    def test_uses_no_global_random_numbers(self, case: str) -> None:
        name, schedule, config, _ = ADAPTED[case]
        before = torch.get_rng_state()
        run(adapted(name, schedule, 5, **config), randn(0))
        assert torch.equal(before, torch.get_rng_state())

    def test_feeds_the_given_noise_to_a_stochastic_solver(self) -> None:
        sampler = adapted("DPMSolverMultistepScheduler", VP, algorithm_type="sde-dpmsolver++")
        theirs = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **BETAS)
        theirs.set_timesteps(10)
        x = y = randn(0, torch.float32)
        for i, t in enumerate(theirs.timesteps):
            noise = randn(i, torch.float32)
            out = sampler.step(field(x, t), i, x, noise)
            y = theirs.step(field(y, t), t, y, variance_noise=noise).prev_sample
            torch.testing.assert_close(out.prev, y, rtol=1e-4, atol=1e-4)
            assert torch.equal(out.prev, out.mean + out.std * noise) or out.std == 0
            x = out.prev
            assert (out.std > 0.01) == (i < 9)

    def test_passes_eta_on(self) -> None:
        ours = adapted("DDIMScheduler", VP, eta=0.6, steps_offset=1, set_alpha_to_one=False)
        core = ddim(10, eta=0.6)
        for i in range(10):
            a, b = (s.step(randn(0), i, randn(1), randn(2)) for s in (ours, core))
            torch.testing.assert_close((a.prev, a.mean, a.pred_x0), (b.prev, b.mean, b.pred_x0), rtol=1e-4, atol=1e-4)
            assert float(a.std) == pytest.approx(float(b.std), rel=1e-4)

    def test_takes_the_checkpoints_configuration_where_its_class_knows_the_key(self) -> None:
        config = {"timestep_spacing": "trailing", "skip_prk_steps": True, "solver_order": 3,
                  "_use_default_values": ["solver_order"], "_class_name": "PNDMScheduler"}  # fmt: skip
        schedule = NoiseSchedule("epsilon", ALPHAS, config=config)
        found = run(adapted("DPMSolverMultistepScheduler", schedule), randn(0))
        plain = run(adapted("DPMSolverMultistepScheduler", VP, timestep_spacing="trailing"), randn(0))
        assert torch.equal(found[-1], plain[-1])
        assert not torch.equal(plain[-1], run(adapted("DPMSolverMultistepScheduler", VP), randn(0))[-1])

    def test_overrides_win_over_the_checkpoint(self) -> None:
        schedule = NoiseSchedule("epsilon", ALPHAS, config={"timestep_spacing": "trailing"})
        chosen, plain = (adapted("DPMSolverMultistepScheduler", s, timestep_spacing="leading") for s in (schedule, VP))
        assert torch.equal(chosen.timesteps, plain.timesteps)

    def test_takes_a_shift_of_its_own(self) -> None:
        asked = adapted("UniPCMultistepScheduler", FLOW, flow_shift=5.0).timesteps
        assert torch.equal(asked, adapted("UniPCMultistepScheduler", fake_schedule("flow", shift=5.0)).timesteps)

    def test_does_not_clip_latents_unless_told_to(self) -> None:
        free, clipped = (adapted("DDIMScheduler", VP, **c) for c in ({}, {"clip_sample": True}))
        reached = [s.step(randn(1), 0, 50 * randn(0), randn(2)).prev.abs().max() for s in (free, clipped)]
        assert reached[0] > 2 * reached[1]


def assert_original_agrees(sampler: DiffusersScheduler) -> None:
    """``original`` equals ``convert_model_output`` of a scheduler at the same step."""
    twin = DiffusersScheduler(
        DiffusersScheduler.Options(scheduler=sampler._name), context(sampler._schedule, len(sampler.timesteps))
    )._pristine
    x = randn(0, torch.float32)
    for i, t in enumerate(sampler.timesteps):
        twin._step_index = i
        expected = twin.convert_model_output(field(x, t), sample=x)
        torch.testing.assert_close(sampler.step(field(x, t), i, x, x).pred_x0, expected, rtol=1e-5, atol=1e-5)


class TestDiffusersSchedulerRefuses:
    @pytest.mark.parametrize(
        ("name", "schedule", "config", "says"),
        [
            ("DPMSolverMultistep", VP, {}, "no scheduler called 'DPMSolverMultistep'. Did you mean DPMSolverMultistep"),
            ("UNet2DModel", VP, {}, "no scheduler called 'UNet2DModel'"),
            ("SchedulerMixin", VP, {}, "no scheduler called 'SchedulerMixin'"),
            ("HeunDiscreteScheduler", VP, {}, "makes 19 timesteps for 10 steps"),
            ("PNDMScheduler", VP, {}, "timesteps for 10 steps"),
            ("EulerAncestralDiscreteScheduler", VP, {}, "draws noise of its own"),
            ("DDPMScheduler", VP, {}, "draws noise of its own"),
            ("FlowMatchEulerDiscreteScheduler", FLOW, {"stochastic_sampling": True}, "draws noise of its own"),
            ("DDIMInverseScheduler", VP, {}, "runs from clean to noise"),
            ("RePaintScheduler", VP, {}, "its step needs what a sampler is not given: mask, original_image"),
            ("FlowMatchEulerDiscreteScheduler", VP, {}, "cannot integrate epsilon prediction: it has no trained_betas"),
            ("DDIMScheduler", FLOW, {}, "cannot integrate flow prediction: it has no shift"),
            ("DEISMultistepScheduler", FLOW, {}, "does not integrate this backbone's process"),
            ("DDIMScheduler", VP, {"prediction_type": "sample"}, "config.prediction_type follows from the backbone's"),
            ("DDIMScheduler", VP, {"beta_end": 0.1}, "config.beta_end follows from the backbone's"),
            ("DDIMScheduler", VP, {"steps_ofset": 1}, "has no config 'steps_ofset'. Did you mean 'steps_offset'?"),
            ("DDIMScheduler", VP, {"timestep_spacing": "odd"}, "cannot be built for 10 steps"),
        ],
    )  # fmt: skip
    def test_what_it_cannot_make_a_sampler_of(
        self, name: str, schedule: NoiseSchedule, config: dict[str, Any], says: str
    ) -> None:
        before = torch.get_rng_state()
        with pytest.raises(ValueError) as caught:
            adapted(name, schedule, **config)
        assert says in str(caught.value)
        assert torch.equal(before, torch.get_rng_state())

    def test_eta_where_the_scheduler_takes_none(self) -> None:
        with pytest.raises(ValueError, match=r"UniPCMultistepScheduler takes no eta, found 0\.5"):
            adapted("UniPCMultistepScheduler", FLOW, eta=0.5)

    def test_more_steps_than_training_has(self) -> None:
        with pytest.raises(ValueError, match="cannot be built for 1001 steps"):
            adapted("DDIMScheduler", VP, steps=1001)


@pytest.mark.parametrize("sampler", [DDIM, FlowEuler, DiffusersScheduler, PipelineScheduler])
def test_built_ins_declare_their_capabilities(sampler: Any) -> None:
    assert set(sampler.predictions) <= {"epsilon", "v", "sample", "flow"}
    assert isinstance(sampler.stochastic, bool)
    assert issubclass(sampler.Options, __import__("vader").Options)


@pytest.mark.parametrize("make", [lambda: ddim(5, eta=1.0), lambda: flow(5, 3.0)])
def test_built_ins_use_no_global_random_numbers(make: Any) -> None:
    before = torch.get_rng_state()
    run(make(), randn(0))
    assert torch.equal(before, torch.get_rng_state())


class TestSigmasOfTheirOwn:
    """A schedule whose pipeline spaces its steps by itself."""

    SCHEDULE = NoiseSchedule(
        "flow", shift=4.0, sigmas=lambda steps, shift: torch.linspace(1, 0.1, steps, dtype=torch.float64) ** shift
    )

    def test_euler_steps_are_at_them(self) -> None:
        sampler = FlowEuler(FlowEuler.Options(), context(self.SCHEDULE, 3))
        torch.testing.assert_close(sampler.timesteps, torch.tensor([1000.0, 1000 * 0.55**4, 0.1]))
        other = FlowEuler(FlowEuler.Options(shift=1.0), context(self.SCHEDULE, 3))
        torch.testing.assert_close(other.timesteps, torch.tensor([1000.0, 550.0, 100.0]))

    def test_a_scheduler_that_takes_sigmas_gets_them(self) -> None:
        config = {"shift": 9.0, "invert_sigmas": True, "shift_terminal": 0.5, "use_dynamic_shifting": True}
        schedule = dataclasses.replace(self.SCHEDULE, config=config)
        sampler = adapted("FlowMatchEulerDiscreteScheduler", schedule, steps=3)
        euler = FlowEuler(FlowEuler.Options(), context(schedule, 3))
        torch.testing.assert_close(sampler.timesteps, euler.timesteps)
        for found, wanted in zip(run(sampler, randn(0)), run(euler, randn(0)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
