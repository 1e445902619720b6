"""Existing diffusers schedulers as samplers: DPM-Solver++ (arXiv 2211.01095), UniPC (arXiv 2302.04867), and others."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.protocols import NoiseSchedule, Prediction, SamplerContext, StepOutput
from vader.spec import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.shapes import Latents

_PREDICTION_TYPES = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample", "flow": "flow_prediction"}
_OURS = {"model_output", "timestep", "sample", "eta", "variance_noise", "return_dict"}
_BETAS = {"trained_betas", "beta_start", "beta_end", "beta_schedule"}
_DECIDED = _BETAS | {"prediction_type", "num_train_timesteps", "use_flow_sigmas"}
_PROBE_CLEAN = 0.5


class DiffusersOptions(Options):
    """Options of :class:`DiffusersScheduler`."""

    scheduler: str = Field(min_length=1, description="Class in diffusers, for example DPMSolverMultistepScheduler.")
    config: dict[str, Any] = Field(default_factory=dict, description="Overrides of the scheduler's configuration.")


class DiffusersScheduler:
    """One diffusers scheduler, built from the backbone's noise schedule.

    What the scheduler is not told by ``config`` it takes from ``schedule.config`` (where its class knows the key), then
    from its own defaults, save ``clip_sample``, which is off: latents are not confined to [-1, 1].

    Latents are variance preserving, or a flow's, whatever the scheduler works in: those that scale the model's input
    (Euler) get their own scale inside :meth:`step`, so a clip starts from unit noise, where diffusers' own loop starts
    some of them (spacing linspace and trailing) from ``sigma_max / sqrt(sigma_max^2 + 1)`` of it.

    ``stochastic`` is True because some of them (DDIM) take ``eta``; one that does not refuses an ``eta`` above 0. Noise
    is always the given one: a scheduler that draws its own is refused when it is built.

    ``original`` is what the denoiser predicts, before any clipping or thresholding that the configuration turns on.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "v", "sample", "flow")
    stochastic: ClassVar[bool] = True
    Options = DiffusersOptions

    def __init__(self, options: DiffusersOptions, context: SamplerContext) -> None:
        """Build the scheduler and rehearse it on one number, so that what it cannot do is said before a clip is made.

        Raises:
            ValueError: the scheduler is unknown, cannot integrate this process, does not make one step per call of the
                denoiser, draws noise of its own, or is given an option that it does not have.
        """
        self._name, self._schedule, self._steps = options.scheduler, context.schedule, context.steps
        kind = _scheduler_class(options.scheduler)
        taken = _step_parameters(kind)
        if context.eta > 0 and "eta" not in taken:
            raise ValueError(f"{self._name} takes no eta, found {context.eta}. Set eta to 0 or use DDIMScheduler.")
        self._extra: dict[str, Any] = {"eta": context.eta} if "eta" in taken else {}
        self._takes_noise = "variance_noise" in taken
        self._pristine = self._built(kind, options.config)
        self._times: Tensor = self._pristine.timesteps
        self.timesteps: Tensor = self._times.to(context.device)
        self._levels = _levels(self._pristine, self._schedule, self._steps)
        self._live: Any = None
        self._next = 0
        self._std = self._rehearsed()

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        output = model_output.to(latents.dtype)
        mean = self._advance(output, i, latents, noise.new_zeros(noise.shape))
        std = self._std[i]
        prev = mean + std * noise if std else mean
        original = self._original(output, i, latents)
        return StepOutput(prev, original, mean, latents.new_full((), std))

    def _advance(self, output: Tensor, i: int, latents: Tensor, noise: Tensor) -> Tensor:
        """The scheduler's own step, from and to latents of our scale. Step 0 starts it anew."""
        if i == 0:
            self._live, self._next = copy.deepcopy(self._pristine), 0
        assert i == self._next, f"steps come in order: {self._next} is next, found {i}"
        scheduler, time = self._live, self._times[i]
        given = {"variance_noise": noise} if self._takes_noise else {}
        sample = latents / _input_scale(scheduler, time)
        prev: Tensor = scheduler.step(output, time, sample, return_dict=False, **given, **self._extra)[0]
        self._next += 1
        if self._next == self._steps:
            self._live = None
        else:
            prev = prev * _input_scale(scheduler, self._times[self._next])
        return prev.to(latents.dtype)

    def _original(self, output: Tensor, i: int, latents: Latents) -> Latents:
        """The clean latents that a prediction means at step ``i``."""
        alpha, sigma = self._levels[i]
        if self._schedule.prediction == "epsilon":
            return (latents - sigma * output) / alpha
        if self._schedule.prediction == "v":
            return alpha * latents - sigma * output
        if self._schedule.prediction == "flow":
            return latents - sigma * output
        return output

    def _built(self, kind: Any, overrides: dict[str, Any]) -> Any:
        """The scheduler with its timesteps set, one for each denoising step, from noise to clean."""
        config = _config(kind, self._schedule, overrides)
        try:
            scheduler = kind(**config)
            if _spaced(kind, self._schedule):
                given = self._schedule.sigmas(self._steps, self._schedule.shift).tolist()  # type: ignore[misc]
                scheduler.set_timesteps(sigmas=given, device="cpu")
            else:
                scheduler.set_timesteps(self._steps, device="cpu")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self._name} cannot be built for {self._steps} steps: {reason}") from error
        found = len(scheduler.timesteps)
        if found != self._steps:
            raise ValueError(
                f"{self._name} makes {found} timesteps for {self._steps} steps; expected one call of the denoiser per "
                f"step. Choose another scheduler, or another number of steps or timestep_spacing."
            )
        if scheduler.timesteps[0] < scheduler.timesteps[-1]:
            raise ValueError(f"{self._name} runs from clean to noise; expected a scheduler that denoises.")
        if callable(getattr(scheduler, "set_begin_index", None)):
            scheduler.set_begin_index(0)
        return scheduler

    def _rehearsed(self) -> list[float]:
        """The standard deviation of each step, found by running the scheduler on single numbers.

        A step is affine in its noise: with all else zero, unit noise comes out as the standard deviation. Then clips of
        one constant, whose ideal denoiser is known, must arrive at that constant.
        """
        import torch

        zero = torch.zeros(1, 1, 1, 1, 1)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            before = torch.random.get_rng_state()
            try:
                stds = [float(self._advance(zero, i, zero, zero + 1)) for i in range(self._steps)]
                end = self._arrival()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"{self._name} fails with {self._schedule.prediction} prediction: {reason}") from error
            if not torch.equal(before, torch.random.get_rng_state()):
                raise ValueError(
                    f"{self._name} draws noise of its own in this configuration; a clip would not depend on its seed "
                    f"alone. Use one that is given its noise (DDIMScheduler, DPMSolverMultistepScheduler)."
                )
        alphas = self._schedule.alphas_cumprod
        rest = 0.0 if alphas is None else float((1 - alphas[0]) ** 0.5)
        if not abs(end - _PROBE_CLEAN) <= 0.02 + rest:
            raise ValueError(
                f"{self._name} does not integrate this backbone's process ({self._schedule.prediction} prediction): "
                f"clips of {_PROBE_CLEAN} came out as {end:.3g}. Choose another scheduler."
            )
        return stds

    def _arrival(self) -> float:
        """Where latents end whose clean value is known at every step."""
        import torch

        alpha, sigma = self._levels[0]
        x = torch.full((1, 1, 1, 1, 1), alpha * _PROBE_CLEAN + sigma)
        for i, (alpha, sigma) in enumerate(self._levels):
            clean = torch.full_like(x, _PROBE_CLEAN)
            noise = (x - alpha * clean) / sigma
            outputs = {"epsilon": noise, "v": alpha * noise - sigma * clean, "sample": clean, "flow": noise - clean}
            x = self._advance(outputs[self._schedule.prediction], i, x, torch.zeros_like(x))
        return float(x)


_TINY_ALPHA = 2.0**-24
"""In place of an exact zero, as diffusers' multistep solvers have it."""


def _scheduler_class(name: str) -> Any:
    """The class called ``name`` in diffusers, which must be a scheduler."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils import DummyObject

    known = sorted(n for n in dir(diffusers) if n.endswith("Scheduler"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else f"It has {', '.join(known)}."
        raise ValueError(f"diffusers {diffusers.__version__} has no scheduler called {name!r}. {hint}")
    kind = getattr(diffusers, name)
    if isinstance(kind, DummyObject):
        raise ValueError(f"{name} needs packages that are not all installed: {', '.join(kind._backends)}.")
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ValueError(f"{name} of diffusers is not a scheduler (no subclass of SchedulerMixin).")
    return kind


_SAMPLERS = {"CogVideoXDPMScheduler": "cogvideox_dpm"}
"""Schedulers that draw their own noise -> the sampler that does the same with the noise it is given."""


def _step_parameters(kind: Any) -> set[str]:
    """Names of what its ``step`` takes; a scheduler that needs more than a sampler is given is refused."""
    step = getattr(kind, "step", None)
    parameters = dict(list(inspect.signature(step).parameters.items())[1:]) if callable(step) else {}
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    if not needed or needed - _OURS:
        missing = ", ".join(sorted(needed - _OURS)) or "no step method"
        message = f"{kind.__name__} cannot be a sampler; its step needs what a sampler is not given: {missing}."
        if kind.__name__ in _SAMPLERS:
            message += f" The sampler {_SAMPLERS[kind.__name__]!r} computes the same: name it in its place."
        raise ValueError(message)
    return set(parameters)


def _config(kind: Any, schedule: NoiseSchedule, overrides: dict[str, Any]) -> dict[str, Any]:
    """The scheduler's configuration: overrides, over what the backbone decides, over the checkpoint's."""
    accepted = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    decided = _decided(kind, schedule, accepted)
    for key in overrides:
        if key in _DECIDED:
            raise ValueError(f"config.{key} follows from the backbone's noise schedule. Remove it.")
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{kind.__name__} has no config {key!r}.{hint} Known: {', '.join(accepted)}.")
    unset: Sequence[str] = schedule.config.get("_use_default_values", ())
    checkpoint = {key: value for key, value in schedule.config.items() if key in accepted and key not in unset}
    defaults = {"clip_sample": False} if "clip_sample" in accepted else {}
    return {**defaults, **checkpoint, **decided, **overrides}


def _decided(kind: Any, schedule: NoiseSchedule, accepted: Sequence[str]) -> dict[str, Any]:
    """What follows from the noise schedule, in the words of this class."""
    import torch

    found: dict[str, Any] = {"num_train_timesteps": schedule.train_timesteps}
    if schedule.alphas_cumprod is not None:
        shifts = "snr_shift_scale" in accepted  # CogVideoX, which takes an exact zero
        alphas = schedule.alphas_cumprod.double().cpu()
        alphas = alphas if shifts else alphas.clamp(min=_TINY_ALPHA)
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
        found["trained_betas"] = (1 - alphas / before).tolist()
        found["prediction_type"] = _PREDICTION_TYPES[schedule.prediction]
        if shifts:  # the table is shifted already
            found["snr_shift_scale"] = 1.0
    elif "flow_shift" in accepted:
        found |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": schedule.shift}
    elif _spaced(kind, schedule):  # shifted already, and from noise to clean
        found |= {"shift": 1.0, "shift_terminal": None, "invert_sigmas": False}
    else:
        found["shift"] = schedule.shift
    if "use_dynamic_shifting" in accepted:
        found["use_dynamic_shifting"] = False
    lacking = [key for key in found if key not in accepted]
    if lacking:
        raise ValueError(
            f"{kind.__name__} cannot integrate {schedule.prediction} prediction: it has no {' and no '.join(lacking)}. "
            f"One that can is DPMSolverMultistepScheduler."
        )
    return found


def _spaced(kind: Any, schedule: NoiseSchedule) -> bool:
    """Whether a scheduler takes the sigmas that the schedule has of its own."""
    sigmas = "sigmas" in inspect.signature(kind.set_timesteps).parameters
    return schedule.sigmas is not None and sigmas and "shift" in inspect.signature(kind.__init__).parameters


def _levels(scheduler: Any, schedule: NoiseSchedule, steps: int) -> list[tuple[float, float]]:
    """Signal and noise level of each step: ``latents = alpha clean + sigma noise``."""
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is None or len(sigmas) != steps + 1:
        if schedule.alphas_cumprod is None:
            raise ValueError(f"{type(scheduler).__name__} has no sigma for each step; choose another scheduler.")
        alphas = schedule.alphas_cumprod.double().cpu()[scheduler.timesteps.long()]
        return [(float(a**0.5), float((1 - a) ** 0.5)) for a in alphas]
    if schedule.prediction == "flow":
        return [(1 - float(s), float(s)) for s in sigmas[:-1]]
    return [(1 / (1 + float(s) ** 2) ** 0.5, float(s) / (1 + float(s) ** 2) ** 0.5) for s in sigmas[:-1]]


def _input_scale(scheduler: Any, time: Tensor) -> Tensor | float:
    """What the scheduler multiplies its sample by before the denoiser sees it; 1 for most."""
    import torch

    scale = getattr(scheduler, "scale_model_input", None)
    factor: Tensor | float = scale(torch.ones(()), time) if callable(scale) else 1.0
    return factor
