"""The small values that components exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vader.shapes import Latents

Prediction = Literal["epsilon", "v", "sample", "flow"]
"""What the denoiser predicts: the noise, the velocity of a variance-preserving process (Salimans and Ho 2022, eq. 11),
the clean latents, or the velocity ``noise - clean`` of a rectified flow (Liu et al. 2022)."""


Branch = Mapping[str, "Tensor"]
"""What one guidance branch gives the denoiser, by the denoiser's own names; each tensor has ``b`` rows."""


@dataclass(frozen=True)
class Prompt:
    """A text, the image that the clip begins with (image-to-video), and whatever a reward may need to know about it.

    Args:
        text: the text.
        metadata: a class name, an object, a target, ...
        image: file of the image; None for text-to-video.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    image: Path | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Video:
    """The clip to be made: frames, height and width in pixels, frames per second (None: the backbone's own)."""

    frames: int
    height: int
    width: int
    fps: float | None = None


Cost = Literal["once", "time", "rounding", "gradient", "task"]
"""What saving memory costs, the least first: seconds outside of training steps, seconds in each, rounded numbers, parts
of the gradient, what is learnt."""


@dataclass(frozen=True)
class MemoryOption:
    """A value of one of a component's own options that saves memory.

    Args:
        setting: ``name=value``.
        costs: what it costs.
    """

    setting: str
    costs: Cost = "time"


@dataclass(frozen=True)
class DecodePlan:
    """How the frames of a reward are decoded. The pixels are the same for every window and every number of tiles.

    Args:
        window: latent frames that carry gradient: that of a scored frame and those before it, rounded up to the chunks
            that the decoder works in; earlier ones are constants. None for all.
        precision: in which the decoder computes.
        tiles: parts that height and width are cut into, decoded one after another; 1 for none.
    """

    window: int | None = None
    precision: Literal["float32", "bf16"] = "float32"
    tiles: int = 1


@dataclass(frozen=True)
class Runtime:
    """Where a component lives: the device and the dtype of its frozen weights."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is conditioned on, for a batch of prompts, by guidance branch.

    Args:
        positive: of the prompts: embeddings, masks, pooled vectors, image latents.
        negative: of the unconditional branch of classifier-free guidance; None for a model that has none.

    ``kept`` holds what is made of it once, by name.
    """

    positive: Branch
    negative: Branch | None = None
    kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.positive.values())))

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> Conditioning:
        """The same conditioning cut from its graph."""
        return self.map(lambda tensor: tensor.detach())

    def __getitem__(self, rows: slice | list[int]) -> Conditioning:
        return self.map(lambda tensor: tensor[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """The conditioning with a function applied to every tensor, once where both branches have the same one."""
        positive = {name: function(tensor) for name, tensor in self.positive.items()}
        if self.negative is None:
            return Conditioning(positive)
        done = {id(tensor): positive[name] for name, tensor in self.positive.items()}
        negative = {
            name: done[id(tensor)] if id(tensor) in done else function(tensor) for name, tensor in self.negative.items()
        }
        return Conditioning(positive, negative)


@dataclass(frozen=True)
class NoiseSchedule:
    """The process a denoiser was trained on.

    Args:
        prediction: what the denoiser predicts.
        alphas_cumprod: ``(train_timesteps,)`` float64, for epsilon, v and sample; None for flow.
        train_timesteps: length of the training schedule; a flow at sigma 1 sees this as its timestep.
        shift: constant timestep shift of a flow, 1 for none (Esser et al. 2024, section 5.3.2).
        config: a diffusers scheduler configuration that says the same, for the samplers ``diffusers`` and ``pipeline``.
        sigmas: ``(steps, shift) -> (steps,)`` float64, a flow's noise level at each step, from 1 down, where a model's
            own pipeline has others than training's, evenly spaced and shifted.
    """

    prediction: Prediction
    alphas_cumprod: Tensor | None = None
    train_timesteps: int = 1000
    shift: float = 1.0
    config: Mapping[str, Any] = field(default_factory=dict)
    sigmas: Callable[[int, float], Tensor] | None = None

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
        prev: ``(b ...)``, the latents of the next step.
        pred_x0: ``(b ...)``, the predicted clean latents.
        mean: ``(b ...)``, prev without its noise.
        std: scalar tensor, 0 for a deterministic step.
    """

    prev: Latents
    pred_x0: Latents
    mean: Latents
    std: Tensor
