"""CogVideoX's own solver: the second-order SDE solver DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, appendix B).

Source: ``CogVideoXDPMScheduler`` of diffusers, whose numbers these are for the same noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Options, SamplerContext, StepOutput, sdk

if TYPE_CHECKING:
    from torch import Tensor


class CogVideoXDPM:
    """A solver of variance-preserving processes that remembers the last prediction and adds noise in every step."""

    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("epsilon", "v", "sample")
    stochastic: ClassVar[bool] = False
    Options = Options

    def __init__(self, options: Options, context: SamplerContext) -> None:
        """
        Raises:
            ValueError: for more steps than training has.
        """
        from diffusers import CogVideoXDPMScheduler

        schedule, steps = context.schedule, context.steps
        known = {
            name: schedule.config[name] for name in ("timestep_spacing", "steps_offset") if name in schedule.config
        }
        table = CogVideoXDPMScheduler(num_train_timesteps=schedule.train_timesteps, **known)
        table.set_timesteps(steps)
        assert schedule.alphas_cumprod is not None
        alphas = schedule.alphas_cumprod.double()
        times = table.timesteps[:steps]
        self.timesteps = times.to(context.device)
        last = 1.0 if schedule.config.get("set_alpha_to_one", True) else float(alphas[0])
        before = [int(time) - schedule.train_timesteps // steps for time in times]
        self._alpha = alphas[times].tolist()
        self._next = [float(alphas[time]) if time >= 0 else last for time in before]
        self._prediction, self._first_order = schedule.prediction, [time < 0 for time in before]
        self._clean: Tensor | None = None

    def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> StepOutput:
        """See :class:`vader.Sampler`."""
        alpha, following = self._alpha[i], self._next[i]
        clean = self._predicted(model_output, latents, alpha)
        width = _half_log_snr(following) - _half_log_snr(alpha)
        decay = math.exp(-width)
        scale = math.sqrt((1 - following) / (1 - alpha)) * decay
        ahead, aim = -math.expm1(-2 * width) * math.sqrt(following), clean
        if i > 0 and not self._first_order[i]:
            assert self._clean is not None
            ratio = (_half_log_snr(alpha) - _half_log_snr(self._alpha[i - 1])) / width
            aim = (1 + 1 / (2 * ratio)) * clean - 1 / (2 * ratio) * self._clean
        self._clean = clean
        mean, std = scale * latents + ahead * aim, math.sqrt((1 - following) * (1 - decay**2))
        return StepOutput(mean + std * noise, clean, mean, latents.new_full((), std))

    def _predicted(self, output: Tensor, latents: Tensor, alpha: float) -> Any:
        signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
        kinds = {
            "epsilon": lambda: (latents - sigma * output) / signal,
            "v": lambda: signal * latents - sigma * output,
            "sample": lambda: output,
        }
        return kinds[self._prediction]()


def _half_log_snr(alpha: float) -> float:
    """Half the logarithm of the signal-to-noise ratio, infinite at its ends."""
    if alpha in (0.0, 1.0):
        return math.copysign(math.inf, alpha - 0.5)
    return 0.5 * math.log(alpha / (1 - alpha))
