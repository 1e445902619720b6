"""A plugin as a third party writes it, with every protocol; type checkers read it, nothing runs it."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import vader
from vader import sdk


class BackboneOptions(vader.Options):
    """Options of :class:`Backbone`."""

    weights: str = "owner/name"


class Backbone:
    """A backbone with every ability."""

    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    default_sampler_options: ClassVar[dict[str, Any]] = {"shift": 3.0}
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q",)
    gradient_checkpointing: ClassVar[bool] = False
    denoiser_name: ClassVar[str | None] = None
    Options = BackboneOptions

    def __init__(self, options: BackboneOptions, runtime: vader.Runtime) -> None:
        self.denoiser: nn.Module = nn.Linear(1, 1).to(runtime.device)
        self.schedule = vader.NoiseSchedule("flow")

    @classmethod
    def resolve_video(cls, options: BackboneOptions, requested: Mapping[str, float]) -> vader.Video:
        return vader.Video(int(requested.get("frames", 1)), 8, 8)

    def encode(self, prompts: Sequence[vader.Prompt]) -> vader.Conditioning:
        return vader.Conditioning({"embeds": torch.zeros(len(prompts), 1)}, None)

    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: sdk.Branch) -> Tensor:
        prediction: Tensor = denoiser(latents)
        return prediction

    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        return latents

    def latent_shape(self, video: vader.Video) -> tuple[int, ...]:
        return (1, video.frames, 1, 1)

    def enable_gradient_checkpointing(self) -> None:
        raise NotImplementedError

    def release_text_encoder(self) -> None:
        """Has none."""

    def conditioning_key(self) -> str:
        return "one"

    def guidance_scale_at(self, scale: float, timestep: float, steps: int) -> float:
        return scale

    def combine(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        return unconditional + scale * (conditional - unconditional)

    def without_adapter(self) -> str | None:
        return None

    def decode_modes(self, options: Any) -> Collection[str]:
        return ()

    def decode_for_reward(self, latents: Tensor, frames: Sequence[int], plan: sdk.DecodePlan) -> Tensor:
        return latents

    def encode_clips(self, frames: Tensor) -> Tensor:
        return frames

    def trunk(self, layers: int, *, weights: bool = True) -> tuple[nn.Module, nn.Module]:
        return self.denoiser, self.denoiser

    def import_adapter(self, options: Any, path: Path) -> tuple[sdk.AdapterSpec, Mapping[str, Tensor]] | None:
        return sdk.AdapterSpec(rank=1), {"layer.weight": torch.zeros(1)}

    def adapter_spec(self, path: Path) -> sdk.AdapterSpec | None:
        return sdk.AdapterSpec(rank=1)

    def export_adapter(self, options: Any, spec: sdk.AdapterSpec, state: Mapping[str, Tensor], /) -> Any:
        return dict(state)

    def conversion(self, options: Any, dtype: torch.dtype | None) -> sdk.Conversion:
        raise NotImplementedError

    @classmethod
    def meta_init(cls, options: BackboneOptions, runtime: vader.Runtime, place: sdk.Place) -> Backbone:
        return cls(options, runtime)


class Sampler:
    """Euler's."""

    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    stochastic: ClassVar[bool] = False
    needs_noise: bool = False

    def __init__(self, context: vader.SamplerContext) -> None:
        self.timesteps = torch.linspace(1000, 1000 / context.steps, context.steps)

    def step(self, model_output: Tensor, i: int, latents: Tensor, noise: Tensor) -> vader.StepOutput:
        prev = latents - model_output / len(self.timesteps)
        return vader.StepOutput(prev, prev, prev, latents.new_zeros(()))


class Reward:
    """Brightness, and how even it is."""

    differentiable: ClassVar[bool] = True

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Mapping[str, Tensor]:
        mean = frames.mean(dim=(1, 2, 3, 4))
        return {"score": mean, "spread": frames.std(dim=(1, 2, 3, 4))}


class LatentReward:
    """Small latents."""

    input: ClassVar[str] = "latents"

    def __init__(self, backbone: vader.Backbone) -> None:
        self._backbone = backbone

    def score(self, latents: Tensor, timestep: Tensor, conditioning: vader.Conditioning) -> Tensor:
        return -latents.flatten(1).square().mean(1)


class Prompts:
    """Two of them."""

    TEXTS: ClassVar[tuple[str, ...]] = ("a fox", "a heron")

    @classmethod
    def named_sets(cls) -> Mapping[str, Sequence[vader.Prompt]]:
        return {"animals": [vader.Prompt(text) for text in cls.TEXTS]}

    def draw(self, n: int, rng: random.Random) -> list[vader.Prompt]:
        return [vader.Prompt(text) for text in rng.choices(self.TEXTS, k=n)]

    def held(self) -> Sequence[vader.Prompt]:
        return [vader.Prompt(text) for text in self.TEXTS]

    def notices(self) -> Sequence[str]:
        return ()


class Method:
    """Nothing is learnt."""

    needs_gradient: ClassVar[bool] = False
    Options = vader.Options
    group_size = 1
    inner_epochs = 1
    passes = 1

    def losses(self, batches: Sequence[vader.Batch], update: int) -> Iterator[vader.Loss]:
        for batch in batches:
            zeros = torch.zeros(len(batch.prompts))
            yield vader.Loss(zeros.sum(), {}, zeros)

    def validate(self, options: Any, spec: vader.RunSpec, sampler: Any) -> Iterable[tuple[str, str]]:
        if spec.sampler.steps > 100:
            yield "sampler.steps", "at most 100."

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take up."""


class Listener:
    """Says what happens."""

    @vader.hookimpl
    def vader_step_finished(self, run: vader.Run, step: int, metrics: Mapping[str, float]) -> None:
        print(run.folder, step, metrics["reward"])

    @vader.hookimpl
    def vader_run_finished(self, run: vader.Run, result: vader.RunResult) -> None:
        print(result.step)


backbone: type[vader.Backbone] = Backbone
sampler: type[vader.Sampler] = Sampler
reward: type[vader.Reward] = Reward
latent_reward: type[sdk.LatentReward] = LatentReward
prompts: type[vader.PromptSource] = Prompts
method: type[vader.Method] = Method


def abilities(made: Backbone, source: Prompts, learner: Method, integrator: Sampler) -> None:
    """Each is what it is called."""
    caches: sdk.CachesConditioning = made
    releases: sdk.ReleasesTextEncoder = made
    varies: sdk.VariesGuidance = made
    combines: sdk.CombinesGuidance = made
    limits: sdk.LimitsAdapters = made
    decodes: sdk.DecodesForReward = made
    encodes: sdk.EncodesClips = made
    trunk: sdk.GivesTrunk = made
    native: sdk.NativeAdapters = made
    starts: sdk.StartsFromNative = made
    exports: sdk.ExportsNative = made
    converts: sdk.Convertible = made
    meta: sdk.MetaBuildable = made
    validates: sdk.ValidatesSpec = learner
    holds: sdk.HoldsPrompts = source
    knows: sdk.KnowsNoise = integrator
    notices: sdk.GivesNotices = source
    named: sdk.NamedPromptSets = source
    print(caches, releases, varies, combines, limits, decodes, encodes, trunk, validates, holds, notices, named)
    print(native, starts, exports, converts, meta, knows)


def verbs(folder: Path) -> None:
    """What a program calls."""
    result = vader.train(folder / "run.yaml", ["train.steps=2"], rewards=[Reward()], listeners=[Listener()])
    clips = vader.generate(result.folder, ["a fox"], seeds=[0])
    print(clips[0].frames.shape, vader.evaluate(result.folder), vader.check(folder / "run.yaml").sampler.steps)
