"""Fewer denoiser calls in the part of a rollout that carries no gradient: predictions used again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from vader.diffusion.guidance import Combine, Predict, both_branches, classifier_free
from vader.protocols import Conditioning
from vader.shapes import Latents

Call = Literal["both", "conditional", "none"]
"""What a step asks of the denoiser: both branches, the conditional one, or nothing."""

Cache = Callable[[Predict, Conditioning], AbstractContextManager[Predict]]
"""``(predict, conditioning) -> a context that gives a predict`` which may leave work out for as long as it lasts."""


def no_cache(predict: Predict, conditioning: Conditioning) -> AbstractContextManager[Predict]:
    """Every call is made in full."""
    return nullcontext(predict)


@dataclass(frozen=True)
class Shortcuts:
    """What is left out before the gradient window; inside it every step is exact.

    Args:
        every: of the steps ``from_step`` to ``to_step - 1`` every n-th makes a prediction, the others use its again.
        from_step: 0 to N.
        to_step: None for the window's start.
        coarse_steps: how many steps make a prediction, evenly spread, in place of ``every``. With a deterministic
            sampler of first order (flow_euler, ddim) these are that many longer steps. None: as ``every`` says.
        guidance_every: of the steps that make a prediction every n-th calls both branches; the others call the
            conditional one, and use the difference of the two again (arXiv 2410.19355, section 3.3).
        cache: leaves out parts of a call.
    """

    every: int = 1
    from_step: int = 0
    to_step: int | None = None
    coarse_steps: int | None = None
    guidance_every: int = 1
    cache: Cache = no_cache

    def plan(self, free: int) -> list[Call]:
        """What each of the first ``free`` steps, those before the window, asks of the denoiser."""
        end = free if self.to_step is None else min(self.to_step, free)
        skipped = {i for i in range(self.from_step, end) if (i - self.from_step) % self.every}
        if self.coarse_steps is not None:
            skipped = set(range(free)) - {j * free // self.coarse_steps for j in range(self.coarse_steps)}
        made = [i for i in range(free) if i not in skipped]
        full = set(made[:: self.guidance_every])
        return ["none" if i in skipped else "both" if i in full else "conditional" for i in range(free)]


class FreeSteps:
    """Guided predictions of the steps before the window, by plan.

    Args:
        predict: one call of the denoiser.
        conditioning: of ``b`` prompts.
        plan: of :meth:`Shortcuts.plan`; its first step makes a prediction with both branches.
        combine: makes one prediction of the two.
    """

    def __init__(
        self, predict: Predict, conditioning: Conditioning, plan: list[Call], combine: Combine = classifier_free
    ) -> None:
        self._predict, self._conditioning, self._plan, self._combine = predict, conditioning, plan, combine
        self._prediction: Tensor | None = None
        self._difference: Tensor | None = None

    def __call__(self, i: int, latents: Latents, timestep: Tensor, scale: float) -> Tensor:
        """The prediction of step ``i``, made or used again. ``timestep`` is ``(b,)``."""
        if self._plan[i] != "none" or self._prediction is None:
            self._prediction = self._made(self._plan[i], latents, timestep, scale)
        return self._prediction

    def _made(self, call: Call, latents: Latents, timestep: Tensor, scale: float) -> Tensor:
        if scale == 1.0:
            return self._predict(latents, timestep, self._conditioning.positive)
        if call == "conditional" and self._difference is not None:
            conditional = self._predict(latents, timestep, self._conditioning.positive)
            other = conditional - self._difference
        else:
            conditional, other = both_branches(self._predict, latents, timestep, self._conditioning, scale)
            self._difference = conditional - other
        return self._combine(conditional, other, scale)
