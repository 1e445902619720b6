"""The scheduler that a checkpoint ships, as a sampler: what its own pipeline in diffusers samples with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.diffusion.samplers.diffusers import DiffusersOptions, DiffusersScheduler
from vader.protocols import Prediction, SamplerContext, StepOutput
from vader.spec import Options

if TYPE_CHECKING:
    from torch import Tensor

    from vader.shapes import Latents


class PipelineOptions(Options):
    """Options of :class:`PipelineScheduler`."""

    flow_shift: float | None = Field(None, gt=0, description="Timestep shift of a flow. Null: the checkpoint's.")
    config: dict[str, Any] = Field(default_factory=dict, description="Overrides of the scheduler's configuration.")


class PipelineScheduler:
    """The class that the checkpoint's scheduler configuration names, through :class:`DiffusersScheduler`.

    A multi-step solver keeps its memory, so its steps come in order.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = DiffusersScheduler.predictions
    stochastic: ClassVar[bool] = True
    Options = PipelineOptions

    def __init__(self, options: PipelineOptions, context: SamplerContext) -> None:
        """
        Raises:
            ValueError: the checkpoint names no scheduler, or :class:`DiffusersScheduler` cannot use it.
        """
        schedule = context.schedule
        name = schedule.config.get("_class_name")
        if not isinstance(name, str):
            raise ValueError(
                f"the checkpoint names no scheduler (_class_name is {name!r}), so there is none to take. Name a "
                "sampler, or use {name: diffusers, options: {scheduler: ...}}."
            )
        if options.flow_shift is not None:
            if schedule.prediction != "flow":
                raise ValueError(f"flow_shift is for flows; the backbone predicts {schedule.prediction}. Remove it.")
            context = replace(context, schedule=replace(schedule, shift=options.flow_shift))
        self._scheduler = DiffusersScheduler(DiffusersOptions(scheduler=name, config=options.config), context)
        self.timesteps: Tensor = self._scheduler.timesteps

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        return self._scheduler.step(model_output, i, latents, noise)
