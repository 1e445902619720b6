"""The run spec: what a run is made of, as frozen pydantic models, and how it is read.

This module knows no component and imports no torch: options of components are checked in :mod:`vader.resolve`, where
the registry is at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from vader.spec.components import BackboneSpec, ComponentField, ComponentSpec, RewardField, named
from vader.spec.options import Options
from vader.spec.rollout import FramesSpec, GradientSpec, RolloutSpec, SamplerSpec, VideoSpec
from vader.spec.train import ShardingSpec, TrainSpec
from vader.spec.validation import ValidationSpec


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

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted path, such as ``rewards.0.weight``."""
        return dict(_flat(self.model_dump(mode="json"), ""))

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
            section.pop(last, None)
            if path in earlier:
                section[last] = earlier[path]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _flat(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    items = [(f"{path}.{key}".lstrip("."), value) for key, value in inner]
    if not items:
        yield path, data
    for where, value in items:
        yield from _flat(value, where)


FREE_ON_RESUME = (
    "output",
    "trackers",
    "validation",
    "gradient.recompute",
    "train.steps",
    "train.device",
    "train.processes",
    "train.timeout",
    "train.sharding",
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
        "train.optimizer": "adamw",
        "train.offload_activations": False,
        "train.timeout": 1800.0,
        "train.sharding": ShardingSpec().model_dump(mode="json"),
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
