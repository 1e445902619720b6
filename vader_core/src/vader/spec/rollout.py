"""How a clip is made, which of its denoising steps carry gradient, and which of its frames are scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vader.spec.components import named
from vader.spec.options import Options


class VideoSpec(Options):
    """The clip to be made. What is left out is the backbone's own choice."""

    frames: int | None = Field(None, ge=1, description="Frames of the clip.")
    height: int | None = Field(None, ge=1, description="Height in pixels.")
    width: int | None = Field(None, ge=1, description="Width in pixels.")
    fps: float | None = Field(None, gt=0, description="Frames per second.")


class SamplerSpec(Options):
    """How latents are denoised."""

    name: str | None = Field(None, description="Registered name. Null: the backbone's default.")
    steps: int = Field(25, ge=1, le=1000, description="Denoising steps N.")
    guidance_scale: float = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance; 1 is off, and below 1 too where the model's pipeline has it so.",
    )
    eta: float = Field(0.0, ge=0, le=1, description="Scale of the noise added at each step; 0 is deterministic.")
    options: dict[str, Any] = Field(default_factory=dict, description="The sampler's own options.")


class GradientSpec(Options):
    """Which denoising steps carry gradient (the gradient window), and how."""

    mode: Literal["last", "rand", "specific", "tail", "uniform", "subset"] = Field(
        "last",
        description="last step; tail: last k; rand: last K, K uniform in 1..N (1..k); specific: from_step to the end; "
        "uniform: k evenly spaced; subset: k at random.",
    )
    k: int | None = Field(None, ge=1, description="Steps with gradient, for tail, uniform and subset; most for rand.")
    from_step: int | None = Field(None, ge=0, description="First step with gradient, for mode specific.")
    original: bool = Field(
        False, description="Stop after the window's first step and decode its predicted clean latents."
    )
    stop_gradient: bool = Field(
        False, description="Cut the denoiser's input from its graph (DRTune): gradient skips through the sampler alone."
    )
    renoise: int | None = Field(
        None, ge=1, description="Average this many re-noised last steps of a finished clip (DRaFT-LV); mode last."
    )
    branches: Literal["both", "conditional"] = Field("both", description="Guidance branches that carry gradient.")
    recompute: Literal["auto", True, False] = Field(
        "auto",
        description="Recompute denoiser calls in backward, so that memory does not grow with K. auto: those of every "
        "step but the last, both branches at once; with train.gradient_checkpointing its blocks alone. true: all, each "
        "branch by itself: least memory. false: none.",
    )


class ReuseSpec(Options):
    """Predictions that are used again at the next steps."""

    every: int = Field(2, ge=2, description="Every n-th of these steps makes a prediction.")
    from_step: int = Field(0, ge=0, description="The first of these steps; before it each makes a prediction.")
    to_step: int | None = Field(
        None, ge=1, description="The step after the last of these. Null: the gradient window's first."
    )


class CacheSpec(Options):
    """A cache of diffusers."""

    name: Literal["FirstBlockCacheConfig", "MagCacheConfig", "PyramidAttentionBroadcastConfig"] = Field(
        description="Class of its configuration in diffusers."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of that class.")


class RolloutSpec(Options):
    """What training's rollouts leave out before the gradient window; validation and generation leave out nothing."""

    reuse: ReuseSpec | None = Field(None, description="Use predictions again. Null: every step makes its own.")
    coarse_steps: int | None = Field(
        None, ge=1, description="How many steps make a prediction, evenly spread, in place of reuse. Null: all."
    )
    guidance_every: int = Field(
        1, ge=1, description="Every n-th prediction calls both guidance branches; others use their difference again."
    )
    cache: Annotated[CacheSpec | None, BeforeValidator(named)] = Field(
        None, description="Leave out blocks of the denoiser where little changes, as diffusers does. Null: none."
    )


class FramesSpec(Options):
    """Which frames of a clip are decoded and scored."""

    mode: Literal["random", "index", "fml", "all", "alt"] = Field(
        "all", description="random: one at random. index: one. fml: first, middle, last. all. alt: every second one."
    )
    index: int | None = Field(None, ge=0, description="The frame, for mode index.")
    decode_window: int | None = Field(
        None,
        ge=1,
        description="Latent frames that carry gradient in the decoder, counted back from a scored frame. Null: all, "
        "which is exact.",
    )
    decode_precision: Literal["float32", "bf16"] = Field(
        "float32", description="Precision of the decoder where rewards score."
    )
    decode_tiles: int = Field(
        1, ge=1, description="Parts that height and width are cut into; exact, in less memory and more time. 1: none."
    )
