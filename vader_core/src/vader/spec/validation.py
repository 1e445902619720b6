"""The clips by which a run is judged."""

from __future__ import annotations

from pydantic import Field

from vader.spec.components import ComponentField, ScoreField
from vader.spec.options import Options


class ValidationSpec(Options):
    """Clips made before, during and after training from fixed prompts and seeds, and judged by held-out rewards."""

    prompts: ComponentField | None = Field(None, description="Prompt source. Null: the training prompts.")
    rewards: tuple[ScoreField, ...] = Field((), description="Held-out rewards; they need not be differentiable.")
    clips: int = Field(8, ge=0, description="Clips judged at each validation; 0 turns validation off.")
    batch_size: int | None = Field(None, ge=1, description="Clips per batch. Null: train.batch_size.")
    save_clips: int = Field(8, ge=0, description="How many of them are written as video.")
    seed: int = Field(1234, ge=0, description="Seed of the clips' noise and of the choice of prompts.")
