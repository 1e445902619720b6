"""A backbone whose clips are Gaussian and whose denoiser is ideal, in closed form: what methods are checked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vader.protocols import Branch, Conditioning, Prediction, Prompt, Runtime, Video
from vader.shapes import Frames, Latents
from vader.spec import Options
from vader.testing.gaussian import noise_schedule

CHANNELS = 3


class GaussianDenoiser(nn.Module):
    """The ideal prediction for data ``N(mean, std^2)``, and a linear layer of zeros for an adapter to sit on.

    Args:
        prediction: what it predicts.
        std: of the data.
    """

    def __init__(self, prediction: Literal["flow", "epsilon"], std: float) -> None:
        super().__init__()
        self.schedule, self.std = noise_schedule(prediction), std
        self.mix = nn.Linear(CHANNELS, CHANNELS, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, latents: Latents, timestep: Tensor, embeds: Tensor) -> Tensor:
        """``(b c f h w)``, ``(b,)`` and the data's means ``(b 1)`` -> the prediction."""
        signal, sigma = (level.to(latents).reshape(-1, 1, 1, 1, 1) for level in self.schedule.levels(timestep))
        mean = embeds.to(latents).reshape(-1, 1, 1, 1, 1)
        apart = (latents - signal * mean) / (signal.square() * self.std**2 + sigma.square())
        clean, noise = mean + self.std**2 * signal * apart, sigma * apart
        ideal = noise - clean if self.schedule.prediction == "flow" else noise
        mixed: Tensor = self.mix(latents.movedim(1, -1)).movedim(-1, 1)
        return ideal + mixed


class GaussianBackboneOptions(Options):
    """Options of :class:`GaussianBackbone`."""

    prediction: Literal["flow", "epsilon"] = Field("flow", description="What it predicts.")
    std: float = Field(0.5, gt=0, description="Standard deviation of the data.")


class GaussianBackbone:
    """Clips whose latents are independent normal numbers around a mean that their prompt gives; a pixel is the logistic
    function of a latent."""

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow", "epsilon")
    default_sampler: ClassVar[str] = "flow_euler"
    lora_target_modules: ClassVar[tuple[str, ...]] = ("mix",)
    gradient_checkpointing: ClassVar[bool] = False
    denoiser_name: ClassVar[str | None] = None
    Options = GaussianBackboneOptions

    def __init__(self, options: GaussianBackboneOptions, runtime: Runtime) -> None:
        denoiser = GaussianDenoiser(options.prediction, options.std).to(runtime.device, runtime.dtype)
        self.denoiser: nn.Module = denoiser.requires_grad_(False).eval()
        self.schedule = denoiser.schedule

    @classmethod
    def resolve_video(cls, options: Any, requested: Mapping[str, float]) -> Video:
        """See :class:`vader.protocols.Backbone`."""
        found = {"frames": 2, "height": 4, "width": 4, **requested}
        return Video(int(found["frames"]), int(found["height"]), int(found["width"]), 8.0)

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """The mean of each prompt, in 0 to 1, as ``embeds`` ``(b 1)``; 0 in the negative branch."""
        means = [[sum(map(ord, prompt.text)) % 11 / 11] for prompt in prompts]
        positive = torch.tensor(means, device=next(self.denoiser.parameters()).device)
        return Conditioning({"embeds": positive}, {"embeds": torch.zeros_like(positive)})

    def predict(self, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
        """See :class:`vader.protocols.Backbone`."""
        prediction: Tensor = denoiser(latents, timestep, branch["embeds"])
        return prediction

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """See :class:`vader.protocols.Backbone`."""
        pixels = latents.movedim(1, 2).sigmoid()
        return pixels if frames is None else pixels[:, list(frames)]

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """See :class:`vader.protocols.Backbone`."""
        return CHANNELS, video.frames, video.height, video.width

    def enable_gradient_checkpointing(self) -> None:
        """There is nothing to recompute."""
