"""Samplers that are wrong in one way each: the check that must catch it -> the sampler. All are DDIM underneath."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vader.diffusion.samplers.ddim import DDIM
from vader.protocols import Prediction, SamplerContext, StepOutput


class Sound(DDIM):
    """Keeps the contract, for one kind of prediction."""

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon",)

    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, context)
        self.eta, self.steps = context.eta, context.steps


def changed(change: Callable[[Sound, StepOutput, int, Tensor, Tensor, Tensor], StepOutput]) -> type[Sound]:
    """A sampler whose step is changed: ``change(sampler, output, i, model_output, latents, noise)``."""

    class Changed(Sound):
        def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> StepOutput:
            return change(self, super().step(model_output, i, latents, noise), i, model_output, latents, noise)

    return Changed


def moved(output: StepOutput, shift: Tensor) -> StepOutput:
    """A step that ends elsewhere, by its own account too."""
    return replace(output, prev=output.prev + shift, mean=output.mean + shift)


class OneMore(Sound):
    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, context)
        self.timesteps = torch.cat([self.timesteps, self.timesteps[-1:] * 0])
        self._alpha, self._alpha_prev = ([*a, a[-1]] for a in (self._alpha, self._alpha_prev))


class Upwards(Sound):
    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, context)
        self.timesteps = self.timesteps.flip(0)


class TooLate(Sound):
    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, context)
        self.timesteps = self.timesteps + 500


class Remembering(Sound):
    _end: Tensor | None = None

    def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> StepOutput:
        output = super().step(model_output, i, latents, noise)
        if i == 0 and self._end is not None:
            output = moved(output, 1e-3 * self._end)
        if i == self.steps - 1:
            self._end = output.prev.detach()
        return output


class Multistep(Sound):
    _before: Tensor | None = None

    def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> StepOutput:
        output = super().step(model_output, i, latents, noise)
        if i > 0 and self._before is not None:
            output = moved(output, 1e-4 * (model_output - self._before))
        self._before = model_output
        return output


class Detaching(Sound):
    def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> StepOutput:
        return super().step(model_output.detach(), i, latents, noise)


class Deaf(Sound):
    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, replace(context, eta=0.0))


class Silent(Sound):
    def __init__(self, options: Any, context: SamplerContext) -> None:
        super().__init__(options, context)
        self.needs_noise = False


def _noisy(self: Sound, output: StepOutput, *_: Any) -> StepOutput:
    noise = _[-1]
    if self.eta:
        return output
    return replace(output, prev=output.prev + 0.1 * noise, std=output.std + 0.1)


def _writes(self: Sound, output: StepOutput, *given: Any) -> StepOutput:
    given[-1].mul_(1 + 1e-7)
    return output


def _dices(self: Sound, output: StepOutput, *_: Any) -> StepOutput:
    torch.rand(1)
    return output


def _mingles(self: Sound, output: StepOutput, i: int, *given: Tensor) -> StepOutput:
    return moved(output, 1e-3 * (given[1].mean(0, keepdim=True) - given[1])) if i == 0 else output


def _misses(self: Sound, output: StepOutput, i: int, *_: Tensor) -> StepOutput:
    return moved(output, 0.1 * output.mean) if i == self.steps - 1 else output


def _spreads(self: Sound, output: StepOutput, *_: Any) -> StepOutput:
    clean = output.pred_x0
    return output if self.eta else moved(output, 0.01 * (clean - clean.mean(dim=(1, 2, 3, 4), keepdim=True)))


def _heats(self: Sound, output: StepOutput, i: int, *given: Tensor) -> StepOutput:
    return replace(output, prev=output.prev + output.std * given[2], std=2 * output.std)


def _widens(self: Sound, output: StepOutput, *_: Any) -> StepOutput:
    return replace(output, prev=output.prev.double(), mean=output.mean.double())


MUTANTS: dict[str, type[Sound]] = {
    "timesteps_are_as_many_as_steps": OneMore,
    "timesteps_descend": Upwards,
    "timesteps_are_those_of_training": TooLate,
    "steps_have_the_shape": changed(lambda self, output, *_: replace(output, pred_x0=output.pred_x0[0])),
    "dtype_follows_the_latents": changed(_widens),
    "prev_is_mean_and_noise": changed(lambda self, output, *_: replace(output, mean=0.9 * output.mean)),
    "eta_0_is_deterministic": changed(_noisy),
    "stochastic_is_true": Deaf,
    "needs_noise_is_true": Silent,
    "latents_are_not_changed": changed(_writes),
    "global_random_state_is_left_alone": changed(_dices),
    "clips_are_independent": changed(_mingles),
    "step_0_begins_anew": Remembering,
    "any_order_is_true": Multistep,
    "clean_prediction_is_right": changed(lambda self, output, *_: replace(output, pred_x0=1.1 * output.pred_x0)),
    "a_point_is_reached": changed(_misses),
    "the_solution_is_approached": changed(_spreads),
    "eta_keeps_the_distribution": changed(_heats),
    "gradient_of_the_last_steps_is_right": Detaching,
}
