"""The optimisation: how long, how fast, on what, and when it is saved."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vader.spec.options import Options


class EarlyStopSpec(Options):
    """Ends a run when a held-out score no longer rises, and keeps the adapter of its best validation."""

    score: str = Field(min_length=1, description="Key of a reward of validation.rewards, or of rewards.")
    patience: int = Field(3, ge=1, description="Validations without a new best after which the run ends.")


class ShardingSpec(Options):
    """Weights that are shared out among processes, each of which has a block of a network whole only while it runs."""

    strategy: Literal["none", "full", "hybrid"] = Field(
        "none",
        description="Share out the denoiser's blocks: not, among all processes, or among those of each machine.",
    )
    offload: Literal["none", "cpu"] = Field("none", description="Where the shares lie while they are not used.")
    rewards: bool = Field(False, description="Share out the blocks of the rewards' networks too.")


def _unswitched(value: Any) -> Any:
    """YAML reads a bare ``no`` as false."""
    return "no" if value is False else value


class TrainSpec(Options):
    """The optimisation."""

    steps: int = Field(100, ge=1, description="Optimizer steps.")
    batch_size: int = Field(1, ge=1, description="Clips per process and micro-step.")
    gradient_accumulation: int = Field(1, ge=1, description="Micro-steps per optimizer step.")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="AdamW; adamw_8bit keeps its state in eight bits (bitsandbytes)."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Course of the learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient's norm is clipped to this.")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Decay of the adapter's moving average, which is what is kept. Null: none."
    )
    early_stop: EarlyStopSpec | None = Field(None, description="End when a held-out score no longer rises.")
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_unswitched)] = Field(
        "no", description="Precision of the frozen weights and of autocast."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute inside the denoiser, block by block.")
    offload_activations: bool = Field(
        False, description="With gradient_checkpointing: what blocks keep for backward waits in the host's memory."
    )
    compile: bool = Field(
        False, description="Compile the denoiser's repeated blocks (torch.compile); the first steps take longer."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice of the run.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device; auto takes what accelerate finds."
    )
    processes: int | None = Field(None, ge=1, description="Processes asked for. Null: as many as the launcher started.")
    timeout: float = Field(
        1800.0,
        gt=0,
        description="Seconds in one phase of an optimizer step, or of loading, that end a run of several processes.",
    )
    sharding: ShardingSpec = Field(
        default_factory=ShardingSpec, description="Weights shared out among processes, for models that fit no GPU."
    )
    checkpoint_every: int = Field(50, ge=1, description="Optimizer steps between checkpoints.")
    keep_checkpoints: int | None = Field(
        None, ge=1, description="The newest checkpoints that are kept, besides the best validation's. Null: all."
    )
    validate_every: int | None = Field(
        None, ge=1, description="Optimizer steps between validations. Null: first and last only."
    )
    max_nonfinite: int = Field(5, ge=1, description="Skipped steps in a row (NaN or infinite) that stop the run.")
