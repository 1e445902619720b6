"""The protocols a plugin implements, and the small values they exchange. Nothing else.

Capabilities are class attributes, so that a spec can be judged before any weight is loaded.
A component is constructed as ``Component(options)`` or, when its constructor has a parameter of that name,
``Component(options, runtime=...)`` (:class:`Runtime`), ``Backbone(options, video=...)`` (:class:`Video`, the clip that
``resolve_video`` gave) or ``Sampler(options, context=...)`` (:class:`SamplerContext`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vader.shapes import Frames, Latents, Scores

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


@runtime_checkable
class Backbone(Protocol):
    """A text-to-video generator, taken apart where gradients need it.

    Class attributes:
        predictions: the kinds of prediction its checkpoints may have.
        default_sampler: name of the sampler used when a spec names none.
        lora_target_modules: names of the linear layers that carry adapters by default.
        gradient_checkpointing: whether ``enable_gradient_checkpointing`` works.
        adapter_spec: optional; a class method ``(path) -> AdapterSpec | None`` that knows adapter files of the
            backbone's own format, so that ``backbone.adapter.init`` takes them. Needs ``import_adapter``.
        import_adapter: optional; a class method ``(options, path) -> (AdapterSpec, tensors by plain name) | None`` that
            reads such a file without loading the backbone.
        export_adapter: optional; a class method ``(options, AdapterSpec, tensors by plain name) -> state`` that gives
            what ``torch.save`` is to write, for programs that read the backbone's own format.
        conversion: optional; a class method ``(options, dtype) -> vader.resolve.conversion.Conversion``: the foreign checkpoint
            that the options name, as safetensors. dtype None leaves it as it is.
        outline: optional; a class method ``(options, runtime, video, place) -> backbone`` for ``vader estimate``: what
            the constructor makes, without reading weights, its networks frozen, in the dtypes that they would have, on
            the meta device, and ``schedule`` real. Each network is given to ``place(module, device)``, which stands in
            for ``module.to(device)``. Parameters that it does not need may be left out (:mod:`vader.weights.meta_init` helps).
        denoiser_name: name of the denoiser in its diffusers pipeline ("transformer", "unet"), for adapters that
            ``load_lora_weights`` reads; None where diffusers has no such pipeline.
    """

    predictions: ClassVar[tuple[Prediction, ...]]
    default_sampler: ClassVar[str]
    lora_target_modules: ClassVar[tuple[str, ...]]
    gradient_checkpointing: ClassVar[bool]
    denoiser_name: ClassVar[str | None]
    denoiser: nn.Module
    schedule: NoiseSchedule

    @classmethod
    def resolve_video(cls, options: Any, requested: Mapping[str, float]) -> Video:
        """The clip a spec gets, judged before any weight is loaded.

        Args:
            options: the backbone's validated options.
            requested: the fields of ``video`` that the spec sets.

        Raises:
            ValueError: for a frame count or size that the backbone cannot make; the message names the possible ones.
        """
        ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of ``b`` prompts. The caller owns grad mode and caches the result."""
        ...

    def predict(
        self,
        denoiser: nn.Module,
        latents: Latents,
        timestep: Tensor,
        embeds: Tensor,
        extras: Mapping[str, Tensor],
    ) -> Tensor:
        """One call of the denoiser.

        Args:
            denoiser: the module to call: ``self.denoiser`` as accelerate has prepared it.
            latents: ``(b c f h w)``.
            timestep: ``(b,)``, as the sampler gives it.
            embeds: ``(b n d)``, one branch of the conditioning.
            extras: the conditioning's further tensors.

        Returns:
            ``(b c f h w)``, the prediction.
        """
        ...

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames, in the order asked for; all when None. ``(b f 3 h w)`` in [0, 1]."""
        ...

    def latent_shape(self, video: Video) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of one clip's latents."""
        ...

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the denoiser's blocks in backward."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Pure maths of one denoising step. No grad mode, no global random numbers, no model call inside.

    A multi-step solver may remember earlier model outputs: step 0 starts it anew, and steps come in order.

    Class attributes:
        predictions: the kinds of prediction it can integrate.
        stochastic: whether ``eta`` above 0 means anything to it.
        any_order: whether a step can be taken by itself, as log-probabilities need it; default False.
    """

    predictions: ClassVar[tuple[Prediction, ...]]
    stochastic: ClassVar[bool]
    timesteps: Tensor
    """``(steps,)``, what the denoiser receives at each step, from noise to clean."""

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """Step ``i``, 0 to steps - 1. ``noise`` is unit normal, ``(b c f h w)``."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Scores clips. Higher is better.

    Class attributes, each with a default for the class that does not set it:
        differentiable: whether gradients reach the frames; default True.
        frames: the least number of frames it can judge; default 1.
        needs_prompt: whether prompts change the score; default False.
        outline: optional; a class method ``(options, runtime, place) -> reward``: see :class:`Backbone`.
    """

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores:
        """``(b f c h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        ...


@runtime_checkable
class PromptSource(Protocol):
    """Gives prompts. It keeps no state: the same ``rng`` state gives the same prompts, which is what makes runs resume.

    Ranks are disjoint because every rank draws the whole batch from one ``rng`` and takes its own rows.

    Class attributes:
        named_sets: optional; a class method ``() -> Mapping[str, Sequence[Prompt]]`` that gives the sets of prompts
            the source holds, by name, before it has options. ``vader prompts`` lists and prints them.
    """

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """``n`` prompts, n at least 1."""
        ...
