"""Checks of samplers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from vader.diffusion.gradient import window
from vader.diffusion.rollout import ClipNoise, rollout
from vader.diffusion.seeding import stream
from vader.protocols import Conditioning, KnowsNoise, Prediction, Sampler, SamplerContext, StepOutput, Video
from vader.testing.checks import Failed, NotApplicable, check, expect
from vader.testing.gaussian import Gaussian, noise_schedule
from vader.testing.subject import Subject

SHAPE = (2, 3, 2, 4, 4)
STEPS = 6


def built(subject: Subject, steps: int, eta: float = 0.0, prediction: Prediction | None = None) -> Sampler:
    """A sampler for a schedule of the kit."""
    kind = prediction or _predictions(subject)[0]
    video = Video(**{"frames": 17, "height": 32, "width": 32, "fps": 8.0, **(subject.video_wanted or {})})  # type: ignore[arg-type]
    context = SamplerContext(noise_schedule(kind), steps, eta, video, torch.device("cpu"))
    return cast(Sampler, subject.build(context=context))


def _predictions(subject: Subject) -> tuple[Prediction, ...]:
    return tuple(subject.capability("predictions"))


def _usable(subject: Subject) -> list[Prediction]:
    """The predictions that it integrates in the subject's configuration; the rest it refuses when it is built."""
    found = []
    for prediction in _predictions(subject):
        try:
            built(subject, STEPS, prediction=prediction)
        except ValueError:
            continue
        found.append(prediction)
    return found


def _normal(seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _field(x: Tensor, timestep: Tensor) -> Tensor:
    """Any smooth denoiser."""
    return torch.tanh(0.7 * x + torch.sin(timestep.to(x.dtype) / 200))


def _run(sampler: Sampler, x: Tensor, noises: int = 100) -> list[StepOutput]:
    """Every step of a denoiser that is :func:`_field`."""
    outputs = []
    for i, timestep in enumerate(sampler.timesteps):
        output = sampler.step(_field(x, timestep), i, x, _normal(noises + i, tuple(x.shape), x.dtype))
        outputs.append(output)
        x = output.prev
    return outputs


def _etas(subject: Subject) -> Iterator[tuple[float, Sampler]]:
    """The sampler at eta 0 and, where it can be had, at eta 1."""
    yield 0.0, built(subject, STEPS)
    if subject.capability("stochastic"):
        try:
            yield 1.0, built(subject, STEPS, 1.0)
        except ValueError:
            return


@check("sampler")
def timesteps_are_as_many_as_steps(subject: Subject) -> None:
    """It has one timestep for each step, for any number of steps."""
    for steps in (1, 2, 5, 16, 25, 30):
        found = tuple(built(subject, steps).timesteps.shape)
        expect(found == (steps,), f"{steps} steps give timesteps of shape {found}; expected ({steps},).")


@check("sampler", needs=("timesteps_are_as_many_as_steps",))
def timesteps_descend(subject: Subject) -> None:
    """Timesteps run from noise to clean; neighbours may be equal, as those of a step in two parts are (Heun)."""
    for steps in (2, 5, 16):
        times = built(subject, steps).timesteps
        falling = bool((times.double().diff() <= 0).all()) and bool(times[0] > times[-1])
        expect(falling, f"timesteps {times.tolist()[:5]} do not fall; expected from noise to clean.")


@check("sampler", needs=("timesteps_descend",))
def timesteps_are_those_of_training(subject: Subject) -> None:
    """Timesteps lie in the range that the denoiser was trained on."""
    times = built(subject, 16).timesteps.double()
    fine = float(times.min()) >= 0 and float(times.max()) <= 1000
    expect(fine, f"timesteps run from {float(times.max()):g} to {float(times.min()):g}; expected within 0 to 1000.")


@check("sampler", needs=("timesteps_are_as_many_as_steps",))
def steps_have_the_shape(subject: Subject) -> None:
    """A step gives latents, clean latents and mean of the latents' shape, and a scalar standard deviation."""
    output = built(subject, STEPS).step(_normal(1), 0, _normal(2), _normal(3))
    for name in ("prev", "pred_x0", "mean"):
        found = tuple(getattr(output, name).shape)
        expect(found == SHAPE, f"{name} has shape {found}; expected that of the latents, {SHAPE}.")
    expect(output.std.ndim == 0, f"std has shape {tuple(output.std.shape)}; expected a scalar tensor.")


@check("sampler", needs=("steps_have_the_shape",))
def dtype_follows_the_latents(subject: Subject) -> None:
    """Latents keep their dtype, also when the denoiser's output has another."""
    for latents, output in ((torch.float32, torch.float32), (torch.float32, torch.bfloat16)):
        sampler = built(subject, STEPS)
        found = sampler.step(_normal(1, dtype=output), 0, _normal(2, dtype=latents), _normal(3, dtype=latents))
        seen = found.prev.dtype
        expect(seen == latents, f"{latents} latents and a {output} prediction give {seen}; expected {latents}.")


@check("sampler", needs=("steps_have_the_shape",))
def prev_is_mean_and_noise(subject: Subject) -> None:
    """The next latents are mean + std * noise."""
    for eta, sampler in _etas(subject):
        x = _normal(2)
        for i, timestep in enumerate(sampler.timesteps):
            noise = _normal(10 + i)
            output = sampler.step(_field(x, timestep), i, x, noise)
            error = float((output.prev - output.mean - output.std * noise).abs().max())
            message = f"at step {i}, eta {eta:g}, prev differs from mean + std * noise by {error:.3g}."
            expect(error < 1e-5, message)
            x = output.prev


@check("sampler", needs=("prev_is_mean_and_noise",))
def eta_0_is_deterministic(subject: Subject) -> None:
    """Without eta the noise does not matter."""
    ends = [_run(built(subject, STEPS), _normal(0), noises)[-1].prev for noises in (100, 200)]
    error = float((ends[0] - ends[1]).abs().max())
    expect(error == 0.0, f"at eta 0, other noise moves the clip by {error:.3g}; expected 0.")


@check("sampler", needs=("prev_is_mean_and_noise",))
def stochastic_is_true(subject: Subject) -> None:
    """If it says that eta means something to it, eta 1 adds noise."""
    etas = dict(_etas(subject))
    if 1.0 not in etas:
        raise NotApplicable("it says stochastic = False, or refuses eta above 0 in this configuration.")
    stds = [float(output.std) for output in _run(etas[1.0], _normal(0))]
    expect(max(stds) > 0, "it says stochastic = True, and every std is 0 at eta 1. Declare False, or add noise.")


@check("sampler", needs=("prev_is_mean_and_noise",))
def needs_noise_is_true(subject: Subject) -> None:
    """If it says that noise does not matter to it where eta is above 0, it adds none there."""
    sampler = dict(_etas(subject)).get(1.0)
    if not isinstance(sampler, KnowsNoise) or sampler.needs_noise:
        raise NotApplicable("it does not say needs_noise = False at eta 1.")
    stds = [float(output.std) for output in _run(sampler, _normal(0))]
    expect(max(stds) == 0, "it says needs_noise = False at eta 1, and adds noise there. Say True.")


@check("sampler", needs=("steps_have_the_shape",))
def latents_are_not_changed(subject: Subject) -> None:
    """What a step is given is not written to."""
    sampler, given = built(subject, STEPS), [_normal(seed) for seed in (1, 2, 3)]
    copies = [tensor.clone() for tensor in given]
    sampler.step(given[0], 0, given[1], given[2])
    names = ("model_output", "latents", "noise")
    changed = [name for name, a, b in zip(names, given, copies, strict=True) if not torch.equal(a, b)]
    expect(not changed, f"a step changes its {' and '.join(changed)} in place. Work on new tensors.")


@check("sampler", needs=("steps_have_the_shape",))
def global_random_state_is_left_alone(subject: Subject) -> None:
    """It draws nothing from the global random generators: its noise is the given one."""
    from vader.testing.reward import unmoved

    for _, sampler in _etas(subject):
        unmoved(lambda sampler=sampler: _run(sampler, _normal(0)))  # type: ignore[misc]


@check("sampler", needs=("steps_have_the_shape",))
def clips_are_independent(subject: Subject) -> None:
    """A clip's latents depend on that clip alone."""
    both = _run(built(subject, STEPS), _normal(0))[-1].prev
    sampler, x = built(subject, STEPS), _normal(0)[:1]
    for i, timestep in enumerate(sampler.timesteps):
        x = sampler.step(_field(x, timestep), i, x, _normal(100 + i)[:1]).prev
    error = float((both[:1] - x).abs().max())
    expect(error < 1e-6, f"a clip made alone differs by {error:.3g} from itself among others.")


@check("sampler", needs=("eta_0_is_deterministic",))
def step_0_begins_anew(subject: Subject) -> None:
    """A second clip is not changed by the first."""
    sampler = built(subject, STEPS)
    first = _run(sampler, _normal(0))[-1].prev
    _run(sampler, _normal(5))
    again = _run(sampler, _normal(0))[-1].prev
    error = float((first - again).abs().max())
    expect(error == 0.0, f"the same clip made again differs by {error:.3g}. Forget everything at step 0.")


@check("sampler", needs=("step_0_begins_anew",))
def any_order_is_true(subject: Subject) -> None:
    """If it says that a step can be taken by itself, one that is gives what it gave in its place."""
    if not subject.capability("any_order"):
        raise NotApplicable("it does not say any_order = True.")
    sampler, x = built(subject, STEPS), _normal(0)
    made = _run(sampler, x)
    for i in reversed(range(1, STEPS)):
        before = made[i - 1].prev
        output = _field(before, sampler.timesteps[i])
        alone = built(subject, STEPS).step(output, i, before, _normal(100 + i))
        error = float((alone.prev - made[i].prev).abs().max())
        expect(error == 0.0, f"step {i} taken by itself ends {error:.3g} elsewhere. Declare any_order = False.")


def _solved(subject: Subject, prediction: Prediction, steps: int, std: float, eta: float = 0.0) -> tuple[Tensor, ...]:
    """Where the sampler takes Gaussian data, its last clean prediction, the quantiles, and the truth."""
    data = Gaussian(noise_schedule(prediction), 0.3, std)
    sampler = built(subject, steps, eta, prediction)
    z = _normal(1, (2, 2, 4, 8, 8))
    x = data.start(float(sampler.timesteps[0]), z)
    original = x
    for i, timestep in enumerate(sampler.timesteps):
        output = sampler.step(data.predict(x, float(timestep)), i, x, _normal(50 + i, tuple(z.shape)))
        x, original = output.prev, output.pred_x0
    return x, original, z, data.end(z)


@check("sampler", needs=("timesteps_are_those_of_training", "eta_0_is_deterministic"))
def clean_prediction_is_right(subject: Subject) -> None:
    """The predicted clean latents are what the denoiser's output means, at every step."""
    for prediction in _usable(subject):
        data = Gaussian(noise_schedule(prediction), 0.3, 0.0)
        sampler = built(subject, STEPS, prediction=prediction)
        x = data.start(float(sampler.timesteps[0]), _normal(1))
        for i, timestep in enumerate(sampler.timesteps):
            output = sampler.step(data.predict(x, float(timestep)), i, x, _normal(9))
            error = float((output.pred_x0 - 0.3).abs().max())
            message = f"with {prediction}, step {i}, the clean latents are off by {error:.3g} where they are known."
            expect(error < 5e-3, message)
            x = output.prev


@check("sampler", needs=("timesteps_are_those_of_training", "eta_0_is_deterministic"))
def a_point_is_reached(subject: Subject) -> None:
    """Data that is one point is reached exactly, in any number of steps, but for the noise training ends with."""
    for prediction in _usable(subject):
        table = noise_schedule(prediction).alphas_cumprod
        rest = 0.0 if table is None else float((1 - table[0]) ** 0.5)
        for steps in (1, 4, 20):
            x, _, z, end = _solved(subject, prediction, steps, 0.0)
            error = float(((x - end).abs() - rest * z.abs()).max())
            message = f"with {prediction}, {steps} steps miss a known point by {error:.3g}; expected under 0.01."
            expect(error < 0.01, message)


@check("sampler", needs=("a_point_is_reached",))
def the_solution_is_approached(subject: Subject) -> None:
    """On Gaussian data, more steps come nearer to the known solution."""
    for prediction in _usable(subject):
        errors = []
        for steps in (20, 80):
            x, _, _, end = _solved(subject, prediction, steps, 0.5)
            errors.append(float((x - end).abs().mean()))
        fine = errors[1] < 0.05 and (errors[1] < 0.6 * errors[0] or errors[1] < 5e-3)
        shown = f"{errors[0]:.3g} after 20 steps and {errors[1]:.3g} after 80"
        expect(fine, f"with {prediction}, clips are off the known solution by {shown}; expected under 0.05, falling.")


@check("sampler", needs=("a_point_is_reached", "stochastic_is_true"))
def eta_keeps_the_distribution(subject: Subject) -> None:
    """With eta 1, Gaussian data still comes out with its mean and its spread."""
    for prediction in _usable(subject):
        x, _, _, _ = _solved(subject, prediction, 80, 0.5, eta=1.0)
        mean, std = float(x.mean()), float(x.std())
        message = f"with {prediction}, eta 1 gives mean {mean:.3f} and spread {std:.3f}; expected 0.300 and 0.500."
        expect(abs(mean - 0.3) < 0.05 and abs(std - 0.5) < 0.05, message)


class _Scaled:
    """A denoiser with one parameter, which may differ between the prefix and the last steps."""

    def __init__(self, scale: Tensor) -> None:
        self.scale = scale

    def __call__(self, x: Tensor, timestep: Tensor, branch: object) -> Tensor:
        return torch.tanh(self.scale * x + torch.sin(timestep.to(x.dtype) / 200).view(-1, 1, 1, 1, 1))


@check("sampler", needs=("eta_0_is_deterministic", "step_0_begins_anew"))
def gradient_of_the_last_steps_is_right(subject: Subject) -> None:
    """The gradient through the last K steps is that of autograd after a detached prefix, and of finite differences."""
    blank = torch.zeros(2, 1, 1, dtype=torch.float64)
    for k in (1, 2, STEPS):
        scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        chosen = window("tail", STEPS, k=k)(stream(0))
        noise = ClipNoise([1, 2], SHAPE[1:], torch.device("cpu"), torch.float64)
        end = rollout(
            _Scaled(scale), built(subject, STEPS), Conditioning({"embeds": blank}, {"embeds": blank}), noise, chosen
        )
        if not end.requires_grad:
            raise Failed("a step cuts the graph: its latents carry no gradient. Use no detach and no no_grad.")
        (found,) = torch.autograd.grad((end**2).mean(), scale)
        slopes = [float((_prefixed(subject, 0.7, 0.7 + sign * 1e-4, k) ** 2).mean()) for sign in (1, -1)]
        expected = (slopes[0] - slopes[1]) / 2e-4
        fine = abs(float(found) - expected) < 2e-3 * (1e-2 + abs(expected))
        expect(fine, f"through the last {k} steps the gradient is {float(found):.8g}; the slope is {expected:.8g}.")


def _prefixed(subject: Subject, before: float, after: float, k: int) -> Tensor:
    """The clip of a denoiser whose parameter changes for the last ``k`` steps, in the rollout's noise."""
    noise = ClipNoise([1, 2], SHAPE[1:], torch.device("cpu"), torch.float64)
    sampler, x = built(subject, STEPS), noise.draw()
    for i, timestep in enumerate(sampler.timesteps):
        scale = torch.tensor(after if i >= STEPS - k else before, dtype=torch.float64)
        output = _Scaled(scale)(x, timestep.expand(2), {})
        x = sampler.step(output, i, x, noise.draw()).prev
    return x
