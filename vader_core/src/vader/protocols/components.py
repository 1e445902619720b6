"""The protocols a plugin implements.

Capabilities are class attributes, so that a spec can be judged before any weight is loaded; their one table is
:mod:`vader.protocols.capabilities`. What a component may be able to do besides is in :mod:`vader.protocols.abilities`.

A component is constructed as ``Component(options)`` or, when its constructor has a parameter of that name,
``Component(options, runtime=...)`` (:class:`Runtime`), ``Component(options, video=...)`` (:class:`Video`, the clip that
``resolve_video`` gave; for backbones and rewards), ``Sampler(options, context=...)`` (:class:`SamplerContext`) or
``LatentReward(options, backbone=...)``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from vader.protocols.values import Branch, Conditioning, NoiseSchedule, Prediction, Prompt, StepOutput, Video

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vader.shapes import Frames, Latents, Scores


@runtime_checkable
class Backbone(Protocol):
    """A text-to-video generator, taken apart where gradients need it.

    Class attributes:
        predictions: the kinds of prediction its checkpoints may have.
        default_sampler: name of the sampler used when a spec names none.
        default_sampler_options: options of that sampler, where a spec does not set them; default none.
        lora_target_modules: names of the linear layers that carry adapters by default.
        gradient_checkpointing: whether ``enable_gradient_checkpointing`` works.
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

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts, ``b`` rows in each branch. The caller owns grad mode and caches the result."""
        ...

    def predict(self, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
        """One call of the denoiser.

        Args:
            denoiser: the module to call: ``self.denoiser`` as accelerate has prepared it.
            latents: ``(b ...)``, usually ``(b c f h w)``.
            timestep: ``(b,)``, as the sampler gives it.
            branch: one branch of the conditioning.

        Returns:
            The prediction, of the latents' shape.
        """
        ...

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames, in the order asked for; all when None. ``(b f 3 h w)`` in [0, 1]."""
        ...

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """Shape of one clip's latents, usually ``(c, f, h, w)``."""
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
        """Step ``i``, 0 to steps - 1. ``noise`` is unit normal, of the latents' shape."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Scores clips. Higher is better.

    Class attributes, each with a default for the class that does not set it:
        differentiable: whether gradients reach the frames; default True.
        frames: the least number of frames it can judge; default 1.
        needs_prompt: whether prompts change the score; default False.
        input: what it scores; default ``frames``.
    """

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores | Mapping[str, Scores]:
        """``(b f c h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``.

        A network with several scores gives them by name, each ``(b,)``: ``score`` is the one that counts, however the
        reward weighs the others in it; they are logged as ``REWARD/NAME``.
        """
        ...


@runtime_checkable
class LatentReward(Protocol):
    """Scores latents, at any timestep: a reward whose class attribute ``input`` is ``latents``.

    Nothing is decoded for it, and a rollout may end at any step for it. Its constructor may ask for the ``backbone``
    whose latents it is to score. Its other class attributes are those of :class:`Reward`.
    """

    input: ClassVar[str]

    def score(self, latents: Latents, timestep: Tensor, conditioning: Conditioning) -> Scores:
        """Scores of ``b`` clips.

        Args:
            latents: ``(b ...)``.
            timestep: ``(b,)``, as the denoiser would receive it with these latents; 0 for clean ones.
            conditioning: of the ``b`` prompts.

        Returns:
            ``(b,)``.
        """
        ...


@runtime_checkable
class PromptSource(Protocol):
    """Gives prompts. It keeps no state: the same ``rng`` state gives the same prompts, which is what makes runs resume.

    Ranks are disjoint because every rank draws the whole batch from one ``rng`` and takes its own rows.
    """

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """``n`` prompts, n at least 1."""
        ...
