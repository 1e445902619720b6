"""The clips by which a run is judged."""

from __future__ import annotations

from pydantic import Field

from vader.spec.components import ComponentField, ScoreField
from vader.spec.options import Options


class HackingSpec(Options):
    """When the image statistics of the validation clips warn: their colour, contrast, detail, motion and diversity."""

    spreads: float = Field(
        1.0,
        gt=0,
        description="How far the mean of a statistic may move from that before training, in standard deviations of the "
        "clips before; at least by a tenth, at most to half or double.",
    )


class ValidationSpec(Options):
    """Clips made before, during and after training from fixed prompts and seeds, and judged by held-out rewards."""

    prompts: ComponentField | None = Field(None, description="Prompt source. Null: the training prompts.")
    rewards: tuple[ScoreField, ...] = Field((), description="Held-out rewards; they need not be differentiable.")
    clips: int = Field(8, ge=0, description="Clips judged at each validation; 0 turns validation off.")
    batch_size: int | None = Field(None, ge=1, description="Clips per batch. Null: train.batch_size.")
    save_clips: int = Field(8, ge=0, description="How many of them are written as video.")
    seed: int = Field(1234, ge=0, description="Seed of the clips' noise and of the choice of prompts.")
    hacking: HackingSpec | None = Field(
        default_factory=HackingSpec,
        description="Warn when the clips' image statistics leave the range of those before training. Null: never.",
    )
