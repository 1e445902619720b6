"""A backbone from the description of its family."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vader.backbones.decoding import frame_indices
from vader.backbones.family import Family, FamilyOptions
from vader.backbones.images import TakesImage, encode_images, hold_first
from vader.backbones.kernels import choose_attention
from vader.backbones.parts import Parts, class_named
from vader.backbones.quantization import require
from vader.backbones.text import TextSide
from vader.errors import WeightsError
from vader.protocols import (
    Branch,
    Conditioning,
    DecodePlan,
    MemoryOption,
    NoiseSchedule,
    Prediction,
    Prompt,
    Runtime,
    Video,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vader.backbones.reward_decoder import TinyDecoder
    from vader.shapes import Frames, Latents
    from vader.weights.meta_init import Place


class FamilyBackbone:
    """The parts of a pipeline in diffusers' layout, frozen.

    Denoiser and text encoders are held in the runtime's dtype (diffusers and transformers keep some of their modules in
    float32), the autoencoder in float32 unless an option says otherwise. Text encoders are loaded when the first prompt
    is encoded, and again after they were released.

    Args:
        options: which weights, and how they are used.
        runtime: device and dtype.
        video: the clip that will be made; None for the family's own.

    Class attributes:
        family: the description.

    Raises:
        WeightsError: the weights are missing, truncated, of another model, or do not fit each other.
    """

    family: ClassVar[Family]
    predictions: ClassVar[tuple[Prediction, ...]]
    default_sampler: ClassVar[str]
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = "transformer"
    memory_options: ClassVar[tuple[MemoryOption, ...]] = (
        MemoryOption("text_encoder_offload=cpu", "once"),
        MemoryOption("block_offload=cpu"),
        MemoryOption("quantize=torchao_int8", "rounding"),
        MemoryOption("quantize=bnb_nf4", "rounding"),
    )
    published_layers: ClassVar[dict[str, str]] = {}
    experts: ClassVar[tuple[str, ...]] = ()
    takes_image: ClassVar[TakesImage] = "never"
    guides_below_1: ClassVar[bool] = False  # diffusers: do_classifier_free_guidance = guidance_scale > 1
    Options: ClassVar[type[FamilyOptions]]

    denoiser: nn.Module
    vae: Any
    schedule: NoiseSchedule

    def __init__(self, options: FamilyOptions, runtime: Runtime, video: Video | None = None) -> None:
        from torch import nn

        require(options.quantize, runtime.device)
        self._assemble(Parts.stored(self.family, options), runtime, nn.Module.to, video)
        choose_attention(self.denoiser, options.attention)

    @classmethod
    def meta_init(
        cls, options: FamilyOptions, runtime: Runtime, place: Place, video: Video | None = None
    ) -> FamilyBackbone:
        """See :class:`vader.protocols.MetaBuildable`."""
        backbone = cls.__new__(cls)
        backbone._assemble(Parts.outline(cls.family, options), runtime, place, video)
        backbone.text.load()
        return backbone

    def _assemble(self, parts: Parts, runtime: Runtime, place: Place, video: Video | None) -> None:
        from vader.backbones.autoencoders.norms import make_lean

        family, options = self.family, parts.options
        self.options, self.runtime, self.checkpointed, self.outlined = options, runtime, False, parts.outlined
        self.video = video or family.video
        self.configs = parts.configs()
        parts.check(self.configs, type(self).__name__, self.video)
        self.schedule = family.schedule(parts.config("scheduler"), options.weights, family.fix, options)
        self.denoiser, self.shelves = self._denoiser(parts, runtime, place)
        dtype: Any = self.denoiser.dtype  # diffusers looks at all parameters
        self._typical = next(parameter for parameter in self.denoiser.parameters() if parameter.dtype == dtype)
        self.vae = place(parts.module("vae", self._vae_dtype()), runtime.device)
        make_lean(self.vae)
        self.reward_decoder = self._reward_decoder(parts, runtime, place)
        self.text = TextSide(parts, runtime, place)
        denoisers = dict.fromkeys(family.denoisers) if family.experts else {family.denoiser: self.denoiser}
        built = {**denoisers, "vae": self.vae, "scheduler": None}
        self.pipeline = _pipeline(class_named(f"diffusers.{family.pipeline}"), {**built, **self.text.unloaded()})
        self.text.pipeline = self.pipeline
        if family.prepare is not None:
            family.prepare(self)

    def _denoiser(self, parts: Parts, runtime: Runtime, place: Place) -> tuple[nn.Module, dict[str, nn.Module]]:
        """What denoises; with the option ``block_offload`` or ``expert_offload``, the shelves of its weights."""
        family, device = self.family, runtime.device
        shelves: dict[str, nn.Module] = {}
        names = family.experts or {"blocks": family.denoiser}
        networks = {name: parts.denoiser(part, runtime.dtype) for name, part in names.items()}
        if parts.options.block_offload == "cpu":
            from vader.backbones.block_offload import offload_blocks

            shelves = {name: offload_blocks(network, device, place) for name, network in networks.items()}
        if not family.experts:
            return place(networks["blocks"], device), shelves
        from vader.backbones.experts import route

        boundary = parts.boundary() * self.schedule.train_timesteps
        router, moved = route(networks, boundary, device, place, offload=parts.options.expert_offload == "cpu")  # type: ignore[attr-defined]
        return router, {**shelves, **moved}

    def _reward_decoder(self, parts: Parts, runtime: Runtime, place: Place) -> TinyDecoder | None:
        said = getattr(parts.options, "reward_decoder", None)
        if said is None:
            return None
        from vader.backbones.reward_decoder import load, outlined

        make = outlined if parts.outlined else load
        decoder: TinyDecoder = make(said, self.family.channels(self.configs), self.family.grid)
        place(decoder, runtime.device)
        return decoder

    def _vae_dtype(self) -> torch.dtype:
        import torch

        return self.runtime.dtype if getattr(self.options, "vae_precision", "float32") == "run" else torch.float32

    @property
    def text_encoder(self) -> Any:
        """The first text encoder, loaded if it is not yet."""
        return self.text.load()[self.family.encoders[0]]

    def conditioning_key(self) -> str:
        """See :class:`vader.protocols.CachesConditioning`."""
        return self.text.key(self.video)

    @classmethod
    def resolve_video(cls, options: FamilyOptions, requested: Mapping[str, float]) -> Video:
        """See :meth:`vader.Backbone.resolve_video` and :meth:`vader.backbones.family.Grid.resolve`."""
        return cls.family.grid.resolve(cls.family.video, requested)

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts; the negative prompt is encoded once and repeated, images are in both branches.

        Raises:
            SpecError: an image cannot be read, is missing, or is not taken.
        """
        self.text.load()
        return self.text.encode([prompt.text for prompt in prompts], encode_images(self, prompts))

    def release_text_encoder(self) -> None:
        """See :class:`vader.protocols.ReleasesTextEncoder`; encoders that the denoiser has taken in stay."""
        self.text.release(self.denoiser)

    def cut_off(self, text: str) -> str:
        """See :class:`vader.protocols.CutsPrompts`."""
        return self.text.cut_off(text)

    def predict(self, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
        """See :meth:`vader.Backbone.predict`.

        Returns:
            ``(b c f h w)`` float32.
        """
        dtype = self._typical.dtype

        def call(latents: Latents, branch: Branch) -> Tensor:
            given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in branch.items()}
            return self.family.predict(self, denoiser, latents.to(dtype), timestep, given).float()

        if self.family.images is not None and self.family.images.hold:
            return hold_first(call, latents, timestep, branch, self.schedule.train_timesteps)
        return call(latents, branch)

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames.

        Args:
            latents: ``(b c f h w)``, as the denoiser sees them.
            frames: indices from 0, in any order; all when None.

        Returns:
            ``(b f 3 h w)`` in [0, 1], in the order asked for.

        Raises:
            IndexError: for a frame that the latents do not hold.
        """
        from vader.diffusion.frames import from_signed

        return from_signed(self.decode_signed(latents, frames))

    @classmethod
    def decode_modes(cls, options: FamilyOptions) -> Collection[str]:
        """See :class:`vader.protocols.DecodesForReward`."""
        from vader.backbones.reward_decoder import MODES

        if getattr(options, "reward_decoder", None) is not None:
            return MODES
        return cls.family.decoder.modes(cls.family.modules["vae"].rpartition(".")[2])

    def decode_for_reward(self, latents: Latents, frames: Sequence[int], plan: DecodePlan) -> Frames:
        """See :class:`vader.protocols.DecodesForReward`; by the option ``reward_decoder``, if it is set."""
        import torch

        from vader.diffusion.frames import from_signed

        if self.reward_decoder is None:
            return from_signed(self.decode_signed(latents, frames, plan))
        wanted = frame_indices(frames, self.family.decoder.frames(latents.shape[2], self.family.grid))
        with torch.autocast(latents.device.type, enabled=False):
            return self.reward_decoder.decode(latents, wanted, plan)

    def decode_signed(
        self, latents: Latents, frames: Sequence[int] | None = None, plan: DecodePlan | None = None
    ) -> Tensor:
        """Pixels of the wanted frames as the autoencoder gives them: about [-1, 1], not clamped. See :meth:`decode`.

        Returns:
            ``(b f 3 h w)``, in the order asked for.
        """
        import torch

        decoder = self.family.decoder
        wanted = frame_indices(frames, decoder.frames(latents.shape[2], self.family.grid))
        with torch.autocast(latents.device.type, enabled=False):
            return decoder(self, latents, wanted, plan or DecodePlan())

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """``(c, f, h, w)`` of one clip's latents."""
        grid = self.family.grid
        channels = self.family.channels(self.configs)
        return channels, grid.latent_frames(video.frames), video.height // grid.cell, video.width // grid.cell

    def without_adapter(self) -> str | None:
        """See :class:`vader.protocols.LimitsAdapters`: the experts that the option ``experts`` leaves out."""
        idle = [name for name in self.family.experts if name not in getattr(self.options, "experts", ())]
        return rf"({'|'.join(idle)})\..*" if idle else None

    def trunk(self, layers: int, *, weights: bool = True) -> tuple[nn.Module, nn.Module]:
        """See :class:`vader.protocols.GivesTrunk`."""
        from vader.backbones.layers import first_layers

        return first_layers(self, layers, weights=weights)

    def encode_clips(self, frames: Frames) -> Latents:
        """See :class:`vader.protocols.EncodesClips`."""
        import torch

        encoder = self.family.encoder
        if encoder is None:
            raise WeightsError(f"{self.family.title}: clips cannot be encoded, because its Family says no `encoder`.")
        pixels = (2 * frames - 1).transpose(1, 2).to(self.runtime.device, torch.float32)
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            return encoder(self.vae, pixels)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the denoiser's layers in backward (non-reentrant)."""
        if not self.checkpointed:
            recompute: Any = self.family.checkpointing or _own_checkpointing
            for network in [getattr(self.denoiser, name) for name in self.family.experts] or [self.denoiser]:
                recompute(network)
        self.checkpointed = True


def _pipeline(kind: Any, parts: Mapping[str, Any]) -> Any:
    """A pipeline of these parts, nothing in the place of others that it wants, such as a guider."""
    wanted = inspect.signature(kind.__init__).parameters.values()
    others = [each.name for each in wanted if each.default is each.empty and each.name not in ("self", *parts)]
    return kind(**parts, **dict.fromkeys(others))


def _own_checkpointing(denoiser: Any) -> None:
    denoiser.enable_gradient_checkpointing()
