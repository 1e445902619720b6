"""A rollout that is kept, and steps of it that are run again with gradient."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from vader.diffusion.flow import flow_levels
from vader.diffusion.precision import upcast
from vader.errors import Problem, SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.protocols import Conditioning, StepOutput
    from vader.shapes import Latents


def levels_of(context: RolloutContext) -> list[float]:
    """The noise levels of a context's sampler, see :func:`vader.diffusion.flow.flow_levels`.

    Raises:
        SpecError: its steps are not Euler's.
    """
    try:
        return flow_levels(context.sampler)
    except ValueError as error:
        raise SpecError([Problem("sampler.name", f"{error}. Use flow_euler.")]) from error


class Replay:
    """What a rollout left, and its steps again.

    Of its latents only those that are asked for are kept, so that memory does not grow with the number of steps.

    Args:
        context: of the rollout.
        conditioning: of ``b`` prompts.
        levels: of :func:`levels_of`.
        latents: steps before which the latents are kept.
        velocities: steps whose velocities are kept.
        calls: how often :meth:`velocity` will be called; the last call is the first that backward comes to, and is not
            made again there unless ``recompute`` is true.
    """

    def __init__(
        self,
        context: RolloutContext,
        conditioning: Conditioning,
        levels: list[float],
        *,
        latents: Collection[int],
        velocities: Collection[int],
        calls: int,
    ) -> None:
        self._context, self._conditioning, self.levels = context, conditioning, levels
        self._wanted, self._wanted_velocities, self._left = set(latents), set(velocities), calls
        self.latents: dict[int, Latents] = {}
        self.velocities: dict[int, Tensor] = {}

    @property
    def steps(self) -> int:
        """How many steps the rollout has; ``latents[steps]`` are its clean latents."""
        return len(self.levels) - 1

    def keep(self, i: int, latents: Latents, output: StepOutput) -> None:
        """What a rollout calls after each step."""
        if i in self._wanted:
            self.latents[i] = latents.detach()
        if i in self._wanted_velocities:
            self.velocities[i] = (output.prev - latents).detach() / self.length(i)
        if i == self.steps - 1:
            self.latents[self.steps] = output.prev.detach()

    def length(self, i: int) -> float:
        """Noise level after step ``i`` minus that before it."""
        return self.levels[i + 1] - self.levels[i]

    def velocity(self, i: int, latents: Latents | None = None) -> Tensor:
        """The velocity of step ``i`` with gradient, ``(b ...)``, at least float32.

        Args:
            i: 0 to steps - 1.
            latents: ``(b ...)``; those of the rollout, which carry no gradient, when None.
        """
        self._left -= 1
        context = self._context
        recompute = False if context.recompute == "auto" and self._left <= 0 else context.recompute
        given = self.latents[i] if latents is None else latents
        return upcast(context.predict_at(self._conditioning, given, i, recompute=recompute))
