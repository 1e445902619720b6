"""FlowBP: gradients of a flow's rollout through a few of its steps, run again (arXiv 2606.11075)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vader.methods.requirements import Finding, euler_steps, no_window
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from vader.methods.context import RolloutContext
    from vader.methods.surrogates import DrawSurrogate

PUBLISHED: dict[str, dict[str, Any]] = {
    "sparse": {"active": 4, "bias": 1.0, "rescale": 0.5},
    "bridge": {"active": 5, "bias": 4.0, "rescale": 0.0, "coupling": 0.5},
    "lagrange": {
        "order": 3,
        "coupling": 0.1,
        "support_scale": 0.25,
        "tau": 0.2,
        "split": (2.5, 6.0, 2.0),
        "latest": 10,
    },
}
"""Variant -> its options, and their published values."""


class FlowBPOptions(Options):
    """Options of :class:`FlowBP`. What is null has the published value of the variant; others' options are refused."""

    variant: Literal["sparse", "bridge", "lagrange"] = Field(
        "lagrange",
        description="sparse: steps by themselves. bridge: steps before and after one that joins them. lagrange: two "
        "leaps, integrated by interpolation.",
    )
    active: int | None = Field(
        None, ge=1, description="Steps with gradient, of sparse and bridge. Null: 4 and 5, or all there are."
    )
    bias: float | None = Field(
        None, ge=0, description="A step of sparse and bridge weighs (step + 1) to this in the draw. Null: 1 and 4."
    )
    rescale: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How far gradients of sparse and bridge are raised to stand for the steps left out; 0 is off. "
        "Null: 0.5 and 0.",
    )
    coupling: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Part of the gradient that goes on through the denoiser's input where two parts meet, of bridge "
        "and lagrange. Null: 0.5 and 0.1.",
    )
    order: int | None = Field(None, ge=1, le=8, description="Velocities that a leap of lagrange integrates. Null: 3.")
    support_scale: float | None = Field(
        None, ge=0, description="Factor of the gradient of a leap's second velocity, of lagrange. Null: 0.25."
    )
    tau: float | None = Field(
        None, gt=0, description="Least distance of a leap's end from the rollout in a clip's weight. Null: 0.2."
    )
    split: tuple[float, float, float] | None = Field(
        None,
        description="Dirichlet concentrations of the steps after, between and before the two leaps' starts, of "
        "lagrange. Null: [2.5, 6, 2].",
    )
    latest: int | None = Field(None, ge=1, description="Most steps of lagrange's second leap. Null: 10.")
    reuse: int = Field(1, ge=1, description="Draws of steps for each rollout, which is scored once; their mean counts.")

    @model_validator(mode="after")
    def _of_the_variant(self) -> FlowBPOptions:
        """Refuse options of other variants, and splits that are none."""
        known = {*PUBLISHED[self.variant], "variant", "reuse"}
        foreign = [name for name in type(self).model_fields if name not in known and getattr(self, name) is not None]
        if foreign:
            own = ", ".join(PUBLISHED[self.variant])
            raise ValueError(f"{', '.join(foreign)} mean nothing to variant {self.variant}, which has {own}")
        if self.split is not None and min(self.split) <= 0:
            raise ValueError(f"split must be three numbers above 0, found {list(self.split)}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The variant's options, published values for what is null."""
        published = PUBLISHED[self.variant]
        return {
            name: value if getattr(self, name) is None else getattr(self, name) for name, value in published.items()
        }


class FlowBP:
    """Makes clips without gradient, runs a few of their steps again with it, and joins what they give to the clips.

    What is scored are the clips themselves; the gradient is that of a surrogate (:mod:`vader.methods.surrogates`).
    In backward there is one step at a time, so that memory grows neither with the rollout's steps nor with the active
    ones. The authors let the unconditional guidance branch carry no gradient (``gradient: {branches: conditional}``)
    and stop at a score (``rewards: [{threshold: ...}]``).
    """

    Options = FlowBPOptions
    needs_gradient: ClassVar[bool] = True
    needs_flow: ClassVar[bool] = True
    group_size = 1
    inner_epochs = 1
    passes = 1

    def __init__(self, options: FlowBPOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: the sampler's steps are not Euler's.
        """
        from vader.methods.replay import levels_of

        self._context, self._reuse, self._levels = context, options.reuse, levels_of(context)
        self._draw = _draw(options, len(self._levels) - 1)

    @classmethod
    def validate(cls, options: FlowBPOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("flowbp", spec, recomputes=True)
        yield from euler_steps("flowbp", spec, sampler)
        steps, least = spec.sampler.steps, 1 if options.variant == "sparse" else 2
        if steps < least:
            yield "sampler.steps", f"variant {options.variant} needs {least} or more, found {steps}."
        elif options.active is not None and not least <= options.active <= steps:
            message = (
                f"{options.active} steps cannot be active in variant {options.variant}. Expected {least} to {steps}."
            )
            yield "method.options.active", message

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


def _draw(options: FlowBPOptions, steps: int) -> DrawSurrogate:
    """How surrogates of the variant are drawn."""
    from vader.methods.surrogates import draw_bridge, draw_sparse, draw_split_leaps

    settings = options.settings
    if options.variant == "lagrange":
        settings["floor"] = settings.pop("tau")
        return draw_split_leaps(steps, **settings)
    settings["active"] = min(settings["active"], steps)
    return draw_sparse(steps, **settings) if options.variant == "sparse" else draw_bridge(steps, **settings)
