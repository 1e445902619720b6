"""LeapAlign: two leaps over a flow's rollout carry the gradient (arXiv 2604.15311)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.methods.requirements import Finding, euler_steps, no_window
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from vader.methods.context import RolloutContext


class LeapAlignOptions(Options):
    """Options of :class:`LeapAlign`."""

    coupling: float = Field(
        0.3, ge=0, le=1, description="Part of the gradient that goes on through the denoiser's input between the leaps."
    )
    tau: float = Field(
        0.1, gt=0, description="Least distance of a leap's end from the rollout in a clip's weight, 1 / their sum."
    )
    reuse: int = Field(1, ge=1, description="Pairs of leaps for each rollout, which is scored once; their mean counts.")


class LeapAlign:
    """Makes clips without gradient, and leaps over them with it: from a random step to a later one, and to the end.

    What is scored are the clips themselves; the gradient is that of the two leaps. Memory is that of one denoiser call,
    however many steps the rollout has. The authors let the unconditional guidance branch carry no gradient
    (``gradient: {branches: conditional}``).
    """

    Options = LeapAlignOptions
    needs_gradient: ClassVar[bool] = True
    needs_flow: ClassVar[bool] = True
    group_size = 1
    inner_epochs = 1
    passes = 1

    def __init__(self, options: LeapAlignOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: the sampler's steps are not Euler's.
        """
        from vader.methods.replay import levels_of
        from vader.methods.surrogates import draw_leaps

        self._context, self._reuse, self._levels = context, options.reuse, levels_of(context)
        self._draw = draw_leaps(
            len(self._levels) - 1, order=1, coupling=options.coupling, support_scale=0.0, floor=options.tau
        )

    @classmethod
    def validate(cls, options: LeapAlignOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("leapalign", spec, recomputes=True)
        yield from euler_steps("leapalign", spec, sampler)
        if spec.sampler.steps < 2:
            yield "sampler.steps", "two leaps need 2 steps or more, found 1."

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.surrogate_losses import surrogate_loss

        for batch in batches:
            yield surrogate_loss(self._context, self._levels, batch, self._draw, self._reuse)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
