"""The run spec: what a run is made of, as frozen pydantic models, and how it is read.

This module knows no component and imports no torch: options of components are checked in :mod:`vader.resolve`, where
the registry is at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from vader.spec.options import Options as Options
from vader.spec.yaml_text import load


def named(value: Any) -> Any:
    """``shapes`` is short for ``{name: shapes}``."""
    return {"name": value} if isinstance(value, str) else value


def _unswitched(value: Any) -> Any:
    """YAML reads a bare ``no`` as false."""
    return "no" if value is False else value


class ComponentSpec(Options):
    """A component by name, with its options."""

    name: str = Field(min_length=1, description="Registered name, or ./file.py:Class for unpackaged code.")
    options: dict[str, Any] = Field(default_factory=dict, description="The component's own options.")


class AdapterSpec(Options):
    """The LoRA adapter (Hu et al. 2021) that is trained."""

    rank: int = Field(16, ge=1, description="Rank of the update.")
    alpha: float | None = Field(
        None, gt=0, description="Scale numerator; the update is scaled by alpha / rank. Null: init's, or rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input while training.")
    target_modules: tuple[str, ...] | None = Field(
        None, min_length=1, description="Layers that carry it. Null: init's, or the backbone's choice."
    )
    init: str | None = Field(None, description="Folder, file or hub:owner/name[:file] to start from. Null: zero.")


class FrozenAdapterSpec(Options):
    """An adapter fused into the model, such as one that lets it do with few steps; neither trained nor saved."""

    init: str = Field(min_length=1, description="Folder, file or hub:owner/name[:file], in any format.")
    scale: float = Field(1.0, description="Factor of its update.")
    expert: str | None = Field(None, min_length=1, description="Of a model with experts, the one that it is for.")


class BackboneSpec(ComponentSpec):
    """The text-to-video model."""

    adapter: AdapterSpec = Field(default_factory=AdapterSpec, description="The adapter that is trained.")
    frozen_adapters: tuple[FrozenAdapterSpec, ...] = Field(
        (), description="Adapters fused into the model under the one that is trained, in this order."
    )


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
    guidance_scale: float = Field(1.0, ge=0, description="Classifier-free guidance scale; 1 is off.")
    eta: float = Field(0.0, ge=0, le=1, description="Scale of the noise added at each step; 0 is deterministic.")
    options: dict[str, Any] = Field(default_factory=dict, description="The sampler's own options.")


class IsolateSpec(Options):
    """Another process for a reward, whose packages cannot live with the run's."""

    python: str = Field(min_length=1, description="Its interpreter, such as /path/to/venv/bin/python.")
    timeout: float = Field(600.0, gt=0, description="Seconds that a call may take.")
    startup_timeout: float = Field(600.0, gt=0, description="Seconds that loading the reward may take.")


class ScoreSpec(ComponentSpec):
    """A reward that judges clips."""

    label: str | None = Field(None, min_length=1, description="Name in the logs. Null: the reward's name.")
    isolate: IsolateSpec | None = Field(None, description="Run it in another interpreter. Null: in this one.")

    @property
    def key(self) -> str:
        """The name this reward has in logs and tables."""
        return self.label or self.name


class ContrastSpec(Options):
    """A reward relative to itself: (1 + k) times the score for one phrase, minus that for another (SRPO)."""

    positive: str = Field(description="Phrase in front of the prompt; or a text with {prompt} in it.")
    negative: str = Field(description="The same of what is subtracted.")
    k: float = Field(0.0, ge=0, description="How much more the positive phrase counts.")


class RewardSpec(ScoreSpec):
    """A reward and its part in the loss: maximised, raised to a threshold, or drawn to a target."""

    weight: float = Field(1.0, ge=0, description="Factor of this reward's term.")
    target: float | None = Field(None, description="Score to come near to (L1). Null: maximise.")
    threshold: float | None = Field(None, description="Score above which nothing more is gained. Null: none.")
    normalize: Literal["none", "running", "base"] = Field(
        "none",
        description="Divide the term by the scores' spread: base: that of the first validation; running: moving from "
        "there with the scores of each optimizer step.",
    )
    contrast: ContrastSpec | None = Field(
        None, description="Score by two phrases in the prompt, one against the other. Null: by the prompt."
    )


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


class EarlyStopSpec(Options):
    """Ends a run when a held-out score no longer rises, and keeps the adapter of its best validation."""

    score: str = Field(min_length=1, description="Key of a reward of validation.rewards, or of rewards.")
    patience: int = Field(3, ge=1, description="Validations without a new best after which the run ends.")


class TrainSpec(Options):
    """The optimisation."""

    steps: int = Field(100, ge=1, description="Optimizer steps.")
    batch_size: int = Field(1, ge=1, description="Clips per process and micro-step.")
    gradient_accumulation: int = Field(1, ge=1, description="Micro-steps per optimizer step.")
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
    compile: bool = Field(
        False, description="Compile the denoiser's repeated blocks (torch.compile); the first steps take longer."
    )
    seed: int = Field(0, ge=0, description="Seed of every random choice of the run.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device; auto takes what accelerate finds."
    )
    processes: int | None = Field(None, ge=1, description="Processes asked for. Null: as many as the launcher started.")
    checkpoint_every: int = Field(50, ge=1, description="Optimizer steps between checkpoints.")
    keep_checkpoints: int | None = Field(
        None, ge=1, description="The newest checkpoints that are kept, besides the best validation's. Null: all."
    )
    validate_every: int | None = Field(
        None, ge=1, description="Optimizer steps between validations. Null: first and last only."
    )
    max_nonfinite: int = Field(5, ge=1, description="Skipped steps in a row (NaN or infinite) that stop the run.")


ComponentField = Annotated[ComponentSpec, BeforeValidator(named)]
ScoreField = Annotated[ScoreSpec, BeforeValidator(named)]
RewardField = Annotated[RewardSpec, BeforeValidator(named)]


class ValidationSpec(Options):
    """Clips made before, during and after training from fixed prompts and seeds, and judged by held-out rewards."""

    prompts: ComponentField | None = Field(None, description="Prompt source. Null: the training prompts.")
    rewards: tuple[ScoreField, ...] = Field((), description="Held-out rewards; they need not be differentiable.")
    clips: int = Field(8, ge=0, description="Clips judged at each validation; 0 turns validation off.")
    batch_size: int | None = Field(None, ge=1, description="Clips per batch. Null: train.batch_size.")
    save_clips: int = Field(8, ge=0, description="How many of them are written as video.")
    seed: int = Field(1234, ge=0, description="Seed of the clips' noise and of the choice of prompts.")


class RunSpec(Options):
    """A run: which components, put together how, trained how, written where."""

    backbone: Annotated[BackboneSpec, BeforeValidator(named)] = Field(description="The text-to-video model.")
    video: VideoSpec = Field(default_factory=VideoSpec, description="The clip to be made.")
    sampler: Annotated[SamplerSpec, BeforeValidator(named)] = Field(
        default_factory=SamplerSpec, description="The sampler."
    )
    prompts: ComponentField = Field(description="Prompts to train on.")
    rewards: tuple[RewardField, ...] = Field((), description="Rewards to train on, combined by weight.")
    method: ComponentField = Field(
        default_factory=lambda: ComponentSpec(name="reward_gradient"), description="How scores become a loss."
    )
    gradient: GradientSpec = Field(default_factory=GradientSpec, description="The gradient window.")
    rollout: RolloutSpec = Field(
        default_factory=RolloutSpec, description="Denoiser calls that training leaves out before the gradient window."
    )
    frames: FramesSpec = Field(default_factory=FramesSpec, description="Frames that are decoded and scored.")
    train: TrainSpec = Field(default_factory=TrainSpec, description="The optimisation.")
    validation: ValidationSpec = Field(
        default_factory=ValidationSpec, description="Fixed prompts and held-out rewards."
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="Further to metrics.jsonl."
    )
    output: str = Field("runs/latest", min_length=1, description="The run's folder.")

    def to_yaml(self) -> str:
        """The spec as YAML that loads back to an equal spec."""
        data = self.model_dump(mode="json")
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))

    def said(self) -> dict[str, Any]:
        """The spec as plain data, without what earlier versions did not know, where it is as it was then."""
        data = self.model_dump(mode="json")
        for path, default in ADDED_FIELDS.items():
            _leave_out(data, path, default)
        return data

    def digest(self, earlier: Mapping[str, Any] = MappingProxyType({})) -> str:
        """SHA-256 of all that decides the numbers of a run: not the folder, nor how often things are written.

        Args:
            earlier: values by path of fields that are free now and were not in an earlier version.
        """
        data = self.said()
        for path in FREE_ON_RESUME:
            section: dict[str, Any] = data
            *parents, last = path.split(".")
            for parent in parents:
                section = section[parent]
            section.pop(last)
            if path in earlier:
                section[last] = earlier[path]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


FREE_ON_RESUME = (
    "output",
    "trackers",
    "validation",
    "gradient.recompute",
    "train.steps",
    "train.device",
    "train.processes",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.validate_every",
    "train.early_stop",
    "train.max_nonfinite",
)
"""Fields that may change between an interrupted run and its resumption."""

ADDED_FIELDS: Mapping[str, Any] = MappingProxyType(
    {
        "backbone.frozen_adapters": [],
        "rollout": RolloutSpec().model_dump(mode="json"),
        "rewards.*.threshold": None,
        "rewards.*.normalize": "none",
        "rewards.*.contrast": None,
        "frames.decode_window": None,
        "frames.decode_precision": "float32",
        "frames.decode_tiles": 1,
        "train.compile": False,
    }
)
"""Fields that earlier versions did not have, with the value that does as they did. Digests leave them out then, so that
runs of those versions can be resumed."""


def _leave_out(data: Any, path: str, default: Any) -> None:
    """Remove a field from a dumped spec if it has its default; ``*`` stands for every item of a list."""
    first, _, rest = path.partition(".")
    if first == "*":
        for item in data:
            _leave_out(item, rest, default)
    elif rest:
        _leave_out(data[first], rest, default)
    elif data[first] == default:
        del data[first]


def differences(a: RunSpec, b: RunSpec) -> list[str]:
    """Dotted paths, outside :data:`FREE_ON_RESUME`, at which two specs differ, each with both values."""
    found: list[str] = []
    _differ(a.model_dump(mode="json"), b.model_dump(mode="json"), "", found)
    return found


def _differ(a: Any, b: Any, path: str, found: list[str]) -> None:
    if path in FREE_ON_RESUME or a == b:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            _differ(a.get(key), b.get(key), f"{path}.{key}".lstrip("."), found)
    else:
        found.append(f"{path}: {a!r} then, {b!r} now")


def load_run_spec(folder: Path) -> RunSpec:
    """The resolved spec of a run folder. It was valid when written; an edited one fails like any other spec."""
    return RunSpec.model_validate(load((folder / "spec.yaml").read_text(encoding="utf-8")))
