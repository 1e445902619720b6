"""Backbones that are wrong in one way each: the check that must catch it -> the backbone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from tests.fakes import CHANNELS, PATCH, FakeBackbone, FakeDenoiser
from torch import Tensor, nn

from vader import Conditioning, Prompt, Runtime, Video
from vader.protocols import Branch, Prediction

_COUNTER = itertools.count(1)


class Sound(FakeBackbone):
    """Keeps the contract."""


class Huge(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.denoiser.register_parameter("more", nn.Parameter(torch.zeros(1).expand(60_000_000), requires_grad=False))


class NoModule(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        network = self.denoiser
        self.denoiser: Any = lambda *arguments: network(*arguments)


class SinglePrecisionTable(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        assert self.schedule.alphas_cumprod is not None
        self.schedule = replace(self.schedule, alphas_cumprod=self.schedule.alphas_cumprod.float())


class WrongSampler(Sound):
    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon",)
    default_sampler: ClassVar[str] = "flow_euler"


class WrongSamplerOption(Sound):
    default_sampler_options: ClassVar[dict[str, Any]] = {"spacing": "crowded"}


class Rounding(Sound):
    @classmethod
    def resolve_video(cls, options: Any, requested: Mapping[str, float]) -> Video:
        even = {k: v - v % 2 if k in ("height", "width") else v for k, v in requested.items()}
        return super().resolve_video(options, even)


class ExtraFrame(Sound):
    def latent_shape(self, video: Video) -> tuple[int, int, int, int]:
        return CHANNELS, video.frames + 1, video.height // PATCH, video.width // PATCH


class Unfrozen(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.encoder = nn.Linear(2, 2).eval()


class OneNegative(Sound):
    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        found = super().encode(prompts)
        return replace(found, negative={"embeds": found.negative["embeds"][:1]})


class MinglingPrompts(Sound):
    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        found = super().encode(prompts)
        embeds = found.positive["embeds"]
        return replace(found, positive={"embeds": embeds - embeds.mean(0) * 0.1})


class _Predicts(Sound):
    """Changes what :meth:`predict` gives."""

    def changed(self, prediction: Tensor) -> Tensor:
        return prediction

    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return self.changed(super().predict(denoiser, latents, timestep, branch))


class ChannelsLast(_Predicts):
    def changed(self, prediction: Tensor) -> Tensor:
        return prediction.movedim(1, -1)


class MinglingClips(_Predicts):
    def changed(self, prediction: Tensor) -> Tensor:
        return prediction + 0.01 * prediction.mean(0)


class Dicing(_Predicts):
    def changed(self, prediction: Tensor) -> Tensor:
        torch.rand(1)
        return prediction


class OwnDenoiser(Sound):
    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return super().predict(self.denoiser, latents, timestep, branch)


class Timeless(Sound):
    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return super().predict(denoiser, latents, timestep * 0 + 500, branch)


class FullPrecisionOnly(Sound):
    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        assert self._runtime.dtype == torch.float32
        return super().predict(denoiser, latents, timestep, branch)


class _Decodes(Sound):
    """Changes what :meth:`decode` gives."""

    def changed(self, frames: Tensor) -> Tensor:
        return frames

    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        return self.changed(super().decode(latents, frames))


class Signed(_Decodes):
    def changed(self, frames: Tensor) -> Tensor:
        return 2 * frames - 1


class MinglingFrames(_Decodes):
    def changed(self, frames: Tensor) -> Tensor:
        return frames + 0.1 * (frames.mean(0, keepdim=True) - frames)


class Detaching(_Decodes):
    def changed(self, frames: Tensor) -> Tensor:
        return frames.detach()


class Sorting(Sound):
    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        return super().decode(latents, None if frames is None else sorted(frames))


class Writing(Sound):
    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        decoded = super().decode(latents, frames)
        latents.data.mul_(1 + 1e-6)
        return decoded


class RandomWeights(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options.model_copy(update={"seed": next(_COUNTER)}), runtime)


class DeadLayer(Sound):
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q", "to_v", "to_nowhere")

    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.denoiser.to_nowhere = nn.Linear(2, 2).requires_grad_(False).eval().to(runtime.dtype)


class _Rounding(FakeDenoiser):
    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Tensor]:
        return {name: tensor.half().float() for name, tensor in super().state_dict(*arguments, **named).items()}


class Lossy(Sound):
    def __init__(self, options: Any, runtime: Runtime) -> None:
        super().__init__(options, runtime)
        self.denoiser.__class__ = _Rounding


class WeakWhenCheckpointed(_Predicts):
    weak = False

    def changed(self, prediction: Tensor) -> Tensor:
        return (prediction + prediction.detach()) / 2 if self.weak else prediction

    def enable_gradient_checkpointing(self) -> None:
        self.weak = True


MUTANTS: dict[str, type[Sound]] = {
    "a_tiny_configuration_exists": Huge,
    "denoiser_is_a_module": NoModule,
    "schedule_is_sound": SinglePrecisionTable,
    "default_sampler_fits": WrongSampler,
    "video_is_resolved": Rounding,
    "latent_shape_is_right": ExtraFrame,
    "networks_are_frozen": Unfrozen,
    "conditioning_has_the_shape": OneNegative,
    "prompts_are_independent": MinglingPrompts,
    "prediction_has_the_shape": ChannelsLast,
    "clips_are_predicted_independently": MinglingClips,
    "predictions_are_deterministic": Dicing,
    "predict_calls_the_denoiser_it_is_given": OwnDenoiser,
    "prompt_and_timestep_matter": Timeless,
    "frames_are_in_range": Signed,
    "clips_are_decoded_independently": MinglingFrames,
    "chosen_frames_are_those_of_the_whole": Sorting,
    "latents_are_not_changed": Writing,
    "gradient_reaches_the_latents": Detaching,
    "a_new_adapter_changes_nothing": RandomWeights,
    "gradient_reaches_the_adapter_alone": DeadLayer,
    "an_adapter_is_saved_exactly": Lossy,
    "checkpointing_keeps_the_gradient": WeakWhenCheckpointed,
    "half_precision_is_tolerated": FullPrecisionOnly,
}
