"""Rewards that are wrong in one way each: the check that must catch it -> the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from tests.fakes import FakeBackbone, Nearness
from torch import Tensor, nn

import vader
from vader import Prompt, Runtime
from vader.protocols import Conditioning

EXPECTED = {"an_ascent_step_raises_the_score": {"gradient_equals_finite_differences": "so that the step is taken"}}
"""Declared failures of a mutant, without which its own check would not be reached."""


class Sound:
    """A small frozen network and the clip's mean. Keeps the contract."""

    differentiable: ClassVar[bool] = True

    class Options(vader.Options):
        """Options of :class:`Sound`."""

        level: float = Field(0.3, description="The mean wanted.")

    def __init__(self, options: Any, runtime: Runtime) -> None:
        self.level: float = options.level
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            self.net = nn.Conv2d(3, 2, 3, padding=1)
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        self.net.requires_grad_(False).eval().to(runtime.device, runtime.dtype)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return self.value(frames)

    def value(self, frames: Tensor) -> Tensor:
        """The score."""
        seen = torch.tanh(self.net(frames.to(self.net.weight.dtype).flatten(0, 1)))
        means = seen.float().unflatten(0, frames.shape[:2]).mean(dim=(1, 2, 3, 4))
        return means + frames.float().mean(dim=(1, 2, 3, 4))


class Column(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.value(frames)[:, None]


class OneSize(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        assert frames.shape[-2:] == (32, 32)
        return self.value(frames)


class OneFrame(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.value(frames[:, :1]) / (2 - frames.shape[1]) if frames.shape[1] < 3 else self.value(frames)


class NanAtBlack(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return torch.where(frames.mean(dim=(1, 2, 3, 4)) <= 0, torch.nan, self.value(frames))


class SteepAtBlack(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return frames.float().mean(dim=(1, 2, 3, 4)).sqrt()


class Relative(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        value = self.value(frames)
        return value - 0.5 * value.mean().detach()


class Drifting(Sound):
    offset = 0.0

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        if len(frames) != 2:
            return self.value(frames)
        self.offset += 0.001
        return self.value(frames) + self.offset


class Dicing(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        torch.rand(1)
        return self.value(frames)


class Writing(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        value = self.value(frames)
        frames.data[..., 0, 0] += 1e-6
        return value


class Training(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.held = {"networks": [self.net.train()]}


class Unfrozen(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.net.requires_grad_(True)


class FullPrecisionOnly(Sound):
    def value(self, frames: Tensor) -> Tensor:
        seen = torch.tanh(self.net(frames.flatten(0, 1)))
        return seen.unflatten(0, frames.shape[:2]).mean(dim=(1, 2, 3, 4))


class Detached(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.value(frames.detach())


class HalfSlope(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return (self.value(frames) + self.value(frames.detach())) / 2


class Downhill(Sound):
    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return 2 * self.value(frames.detach()) - self.value(frames)


class Modest(Sound):
    differentiable: ClassVar[bool] = False


class Boastful(Sound):
    needs_prompt: ClassVar[bool] = True


class CleanOnly(Nearness):
    of = FakeBackbone

    def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return super().score(latents, timestep, conditioning) / (1 - timestep / 999)


MUTANTS: dict[str, type[Any]] = {
    "any_timestep_is_scored": CleanOnly,
    "scores_have_the_shape": Column,
    "any_size_is_scored": OneSize,
    "any_number_of_frames_is_scored": OneFrame,
    "scores_are_finite_at_the_ends": NanAtBlack,
    "clips_are_independent": Relative,
    "scores_are_deterministic": Drifting,
    "global_random_state_is_left_alone": Dicing,
    "input_is_not_changed": Writing,
    "parameters_are_frozen": Unfrozen,
    "networks_are_in_eval_mode": Training,
    "half_precision_is_tolerated": FullPrecisionOnly,
    "gradient_reaches_the_frames": Detached,
    "gradient_is_finite_at_the_ends": SteepAtBlack,
    "gradient_equals_finite_differences": HalfSlope,
    "an_ascent_step_raises_the_score": Downhill,
    "differentiable_is_true": Modest,
    "needs_prompt_is_true": Boastful,
}
