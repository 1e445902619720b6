"""The embedded tiny Wan as a backbone: the same family as a full-size Wan, with weights inside the package."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from vader import Video, sdk
from vader_diffusers.wan import Wan, WanOptions
from vader_shapes import WEIGHTS


class ShapesOptions(WanOptions):
    """Options of :class:`Shapes`: those of Wan, with the embedded pipeline for default."""

    weights: str = Field(
        str(WEIGHTS / "pipeline"), min_length=1, description="Pipeline folder; the embedded one by default."
    )
    variant: str | None = Field(
        None,
        description="few_steps: distilled for four denoising steps without guidance. Null: the model as trained.",
    )
    max_sequence_length: int = Field(20, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")


class Shapes(Wan):
    """Clips of 9 frames of 32x32 from prompts such as "two red circles moving left slowly on a black background"."""

    Options = ShapesOptions
    family = replace(
        Wan.family, video=Video(9, 32, 32, 8.0), grid=sdk.Grid(time=4, time_offset=1, space=8, cell=4), published={}
    )
