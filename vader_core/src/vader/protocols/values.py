"""The small values that components exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vader.shapes import Latents

Prediction = Literal["epsilon", "v", "sample", "flow"]
"""What the denoiser predicts: the noise, the velocity of a variance-preserving process (Salimans and Ho 2022, eq. 11),
the clean latents, or the velocity ``noise - clean`` of a rectified flow (Liu et al. 2022)."""


@dataclass(frozen=True)
class Prompt:
    """A text and whatever a reward may need to know about it (a class name, an object, a target)."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Video:
    """The clip to be made: frames, height and width in pixels, frames per second (None: the backbone's own)."""

    frames: int
    height: int
    width: int
    fps: float | None = None


@dataclass(frozen=True)
class Runtime:
    """Where a component lives: the device and the dtype of its frozen weights."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is conditioned on, for a batch of prompts.

    Args:
        prompt_embeds: ``(b n d)``.
        negative_prompt_embeds: ``(b n d)``, the unconditional branch of classifier-free guidance.
        extras: further tensors whose first dimension is ``b``, given to both branches (fps, attention mask, size).
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.prompt_embeds.shape[0])

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device."""
        extras = {name: tensor.to(device) for name, tensor in self.extras.items()}
        return Conditioning(self.prompt_embeds.to(device), self.negative_prompt_embeds.to(device), extras)

    def detach(self) -> Conditioning:
        """The same conditioning cut from its graph."""
        extras = {name: tensor.detach() for name, tensor in self.extras.items()}
        return Conditioning(self.prompt_embeds.detach(), self.negative_prompt_embeds.detach(), extras)

    def __getitem__(self, rows: slice | list[int]) -> Conditioning:
        extras = {name: tensor[rows] for name, tensor in self.extras.items()}
        return Conditioning(self.prompt_embeds[rows], self.negative_prompt_embeds[rows], extras)


@dataclass(frozen=True)
class NoiseSchedule:
    """The process a denoiser was trained on.

    Args:
        prediction: what the denoiser predicts.
        alphas_cumprod: ``(train_timesteps,)`` float64, for epsilon, v and sample; None for flow.
        train_timesteps: length of the training schedule; a flow at sigma 1 sees this as its timestep.
        shift: constant timestep shift of a flow, 1 for none (Esser et al. 2024, section 5.3.2).
        config: a diffusers scheduler configuration that says the same, for the ``diffusers`` sampler.
    """

    prediction: Prediction
    alphas_cumprod: Tensor | None = None
    train_timesteps: int = 1000
    shift: float = 1.0
    config: Mapping[str, Any] = field(default_factory=dict)

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at training's timesteps: ``latents = signal * clean + sigma * noise``.

        Args:
            timestep: ``(b,)``; whole numbers below ``train_timesteps`` or, for a flow, any in 0 to ``train_timesteps``.

        Returns:
            Two float64 tensors ``(b,)`` on the CPU.
        """
        if self.alphas_cumprod is None:
            sigma = timestep.cpu().double() / self.train_timesteps
            return 1 - sigma, sigma
        alphas = self.alphas_cumprod.cpu().double()[timestep.cpu().long()]
        return alphas.sqrt(), (1 - alphas).sqrt()


@dataclass(frozen=True)
class SamplerContext:
    """What a sampler is built for.

    Args:
        schedule: the backbone's noise schedule.
        steps: number of denoising steps, at least 1.
        eta: scale of the noise added at each step, 0 for a deterministic sampler.
        video: the clip to be made; some flows shift their timesteps by its size.
        device: where the timesteps are wanted.
    """

    schedule: NoiseSchedule
    steps: int
    eta: float
    video: Video
    device: torch.device


@dataclass(frozen=True)
class StepOutput:
    """One denoising step: ``prev = mean + std * noise``.

    Args:
        prev: ``(b c f h w)``, the latents of the next step.
        pred_x0: ``(b c f h w)``, the predicted clean latents.
        mean: ``(b c f h w)``, prev without its noise.
        std: scalar tensor, 0 for a deterministic step.
    """

    prev: Latents
    pred_x0: Latents
    mean: Latents
    std: Tensor
