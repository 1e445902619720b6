"""What a component may be able to do besides: each ability a protocol of its own, in one table.

A component has an ability when its class has the method; :func:`ability` then gives it, typed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from vader.protocols.values import DecodePlan, Prompt

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vader.shapes import Frames, Latents
    from vader.spec import AdapterSpec, RunSpec
    from vader.weights.conversion import Conversion

A = TypeVar("A")


@runtime_checkable
class NativeAdapters(Protocol):
    """A backbone that reads adapter files of its own format."""

    def import_adapter(self, options: Any, path: Path) -> tuple[AdapterSpec, Mapping[str, Tensor]] | None:
        """What such a file holds, its tensors by plain name, without loading the backbone; None for another format."""
        ...


@runtime_checkable
class StartsFromNative(NativeAdapters, Protocol):
    """A backbone that knows such a file by itself, so that ``backbone.adapter.init`` takes it."""

    def adapter_spec(self, path: Path) -> AdapterSpec | None:
        """What the adapter of a file is; None for one in another format."""
        ...


@runtime_checkable
class ExportsNative(Protocol):
    """A backbone that writes adapters in its own format, for programs that read it."""

    def export_adapter(self, options: Any, spec: AdapterSpec, state: Mapping[str, Tensor], /) -> Any:
        """What ``torch.save`` is to write for the tensors of an adapter, by plain name."""
        ...


@runtime_checkable
class Convertible(Protocol):
    """A backbone whose published checkpoint ``vader convert`` writes as safetensors."""

    def conversion(self, options: Any, dtype: torch.dtype | None) -> Conversion:
        """The checkpoint that the options name, as it is to be written. dtype None leaves it as it is."""
        ...


@runtime_checkable
class MetaBuildable(Protocol):
    """A backbone or reward that ``vader estimate`` builds without weights."""

    @property
    def meta_init(self) -> Callable[..., Any]:
        """A class method ``(options, runtime, place)``; where it has a parameter ``video``, that too.

        It gives what the constructor makes, without reading weights: its networks frozen, in the dtypes that they would
        have, on the meta device; a backbone's ``schedule`` real. Each network is given to ``place(module, device)``,
        which stands in for ``module.to(device)``. Parameters that it does not need may be left out
        (``meta_network`` and ``MetaTokens`` of :mod:`vader.sdk` help).
        """
        ...


@runtime_checkable
class GivesTrunk(Protocol):
    """A backbone whose denoiser's first layers can be a network of their own: what latent rewards are made of."""

    def trunk(self, layers: int, *, weights: bool = True) -> tuple[nn.Module, nn.Module]:
        """A network that :meth:`vader.Backbone.predict` calls as it calls the denoiser, and its last layer.

        Args:
            layers: how many of the denoiser's layers it has, the first ones.
            weights: copy the denoiser's weights, without its adapter, to the run's device; else the network is on the
                meta device.

        Returns:
            The network, and that of its layers whose output, or the first of whose outputs, is tokens ``(b n d)``.

        Raises:
            WeightsError: the denoiser has fewer layers, or none that can be taken apart.
        """
        ...


@runtime_checkable
class EncodesClips(Protocol):
    """A backbone that makes latents of clips."""

    def encode_clips(self, frames: Frames) -> Latents:
        """``(b f 3 h w)`` in [0, 1] -> latents as the denoiser sees them, ``(b ...)``, without gradient."""
        ...


@runtime_checkable
class VariesGuidance(Protocol):
    """A backbone whose guidance scale depends on the step."""

    def guidance_scale_at(self, scale: float, timestep: float, steps: int) -> float:
        """The scale of one step.

        Args:
            scale: ``sampler.guidance_scale``.
            timestep: what the denoiser receives at that step.
            steps: of the sampler.
        """
        ...


@runtime_checkable
class LimitsAdapters(Protocol):
    """A backbone whose adapter leaves parts of the denoiser out."""

    def without_adapter(self) -> str | None:
        """A regular expression that matches the whole names of modules that carry none; None: all may."""
        ...


@runtime_checkable
class CombinesGuidance(Protocol):
    """A backbone whose two guidance branches make one prediction in a way of its own."""

    def combine(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        """Predictions ``(b ...)`` of both branches -> the guided one, in place of classifier-free guidance."""
        ...


@runtime_checkable
class CachesConditioning(Protocol):
    """A backbone whose conditioning may be kept on disk, so that a later run need not load the text encoder."""

    def conditioning_key(self) -> str:
        """Names everything that decides the numbers of :meth:`vader.Backbone.encode` besides the prompt."""
        ...


@runtime_checkable
class ReleasesTextEncoder(Protocol):
    """A backbone that need not hold what encodes prompts once a run's prompts are encoded."""

    def release_text_encoder(self) -> None:
        """Let it go; :meth:`vader.Backbone.encode` loads it again."""
        ...


@runtime_checkable
class DecodesForReward(Protocol):
    """A backbone that decodes what a reward scores by a plan, to spare memory. What is looked at is decoded as ever."""

    def decode_modes(self, options: Any) -> Collection[str]:
        """The fields of the plan that may differ from their defaults, without loading the backbone."""
        ...

    def decode_for_reward(self, latents: Latents, frames: Sequence[int], plan: DecodePlan) -> Frames:
        """See :meth:`vader.Backbone.decode`; the same pixels, but for the plan's precision."""
        ...


@runtime_checkable
class HoldsPrompts(Protocol):
    """A prompt source that can show all it draws from, so that a spec is judged by every prompt."""

    def held(self) -> Sequence[Prompt]:
        """Its prompts."""
        ...


@runtime_checkable
class GivesNotices(Protocol):
    """A prompt source that says what a user should know of what it read; a run and a dry run pass it on."""

    def notices(self) -> Sequence[str]:
        """A sentence each; none for nothing."""
        ...


@runtime_checkable
class CutsPrompts(Protocol):
    """A backbone or a reward that reads no more than the beginning of a long prompt; a run says so."""

    def cut_off(self, text: str) -> str:
        """The end of a prompt's text that is not read; nothing for one that is read whole."""
        ...


@runtime_checkable
class NamedPromptSets(Protocol):
    """A prompt source that holds sets of prompts with names; ``vader prompts`` lists and prints them."""

    def named_sets(self) -> Mapping[str, Sequence[Prompt]]:
        """The sets by name, before the source has options."""
        ...


@runtime_checkable
class ValidatesSpec(Protocol):
    """A method that says what of a spec it cannot work with, before any weight is loaded."""

    def validate(self, options: Any, spec: RunSpec, sampler: Any) -> Iterable[tuple[str, str]]:
        """Dotted paths and messages. ``sampler`` is the sampler's class."""
        ...


@runtime_checkable
class KnowsNoise(Protocol):
    """A sampler that says whether noise matters to its steps, as it was built: where it does not, none is drawn."""

    @property
    def needs_noise(self) -> bool:
        """Whether any step's result depends on the noise it is given."""
        ...


ABILITIES: Mapping[type, tuple[str, ...]] = MappingProxyType(
    {
        NativeAdapters: ("backbone",),
        StartsFromNative: ("backbone",),
        ExportsNative: ("backbone",),
        Convertible: ("backbone",),
        MetaBuildable: ("backbone", "reward"),
        GivesTrunk: ("backbone",),
        EncodesClips: ("backbone",),
        VariesGuidance: ("backbone",),
        CombinesGuidance: ("backbone",),
        LimitsAdapters: ("backbone",),
        CachesConditioning: ("backbone",),
        ReleasesTextEncoder: ("backbone",),
        HoldsPrompts: ("prompts",),
        GivesNotices: ("prompts",),
        CutsPrompts: ("backbone", "reward"),
        DecodesForReward: ("backbone",),
        NamedPromptSets: ("prompts",),
        ValidatesSpec: ("method",),
        KnowsNoise: ("sampler",),
    }
)
"""Ability -> the kinds of component that may have it."""


def ability(kind: str, component: Any, wanted: type[A]) -> A | None:
    """The component as what it is able to do, or None.

    Args:
        kind: of the component.
        component: its class.
        wanted: one of :data:`ABILITIES`.
    """
    return component if kind in ABILITIES[wanted] and isinstance(component, wanted) else None
