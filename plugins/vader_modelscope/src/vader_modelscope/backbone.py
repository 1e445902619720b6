"""ModelScope text-to-video (Wang et al. 2023, arXiv 2308.06571), taken apart where gradients need it.

Importing this module imports neither torch nor diffusers, so that a spec is judged at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from vader import Conditioning, NoiseSchedule, Options, Runtime, Video
from vader.sdk import PICKLED
from vader_modelscope import weights as files

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from torch import Tensor, nn
    from transformers import CLIPTextModel, CLIPTokenizer

    from vader.sdk import AdapterSpec, Frames, Latents, Place, Prediction


class ModelScopeOptions(Options):
    """Options of :class:`ModelScope`."""

    weights: str = Field(
        files.HUB,
        min_length=1,
        description="Diffusers pipeline of a ModelScope text-to-video model: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main. Not for a folder.")
    variant: str | None = Field(
        None, description="Variant in the weight files' names, such as fp16. Null: plain names."
    )
    negative_prompt: str = Field("", description="Prompt of the unconditional branch of classifier-free guidance.")
    text_adapter: bool = Field(False, description="The text encoder carries the adapter too, and gradient reaches it.")
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep", description="keep: the text encoder lives on the run's device. cpu: it lives and encodes on the CPU."
    )
    zero_terminal_snr: bool = Field(
        False, description="Rescale the noise schedule so that its last timestep is pure noise (arXiv 2305.08891)."
    )
    decode_slice: int = Field(1, ge=1, description="Frames that the VAE decodes at once.")
    vae_precision: Literal["float32", "run"] = Field("float32", description="float32, or run: the run's precision.")
    xformers: bool = Field(False, description="Attention by xformers rather than torch. Needs a CUDA device.")

    @field_validator("text_encoder_offload")
    @classmethod
    def _adapter_needs_the_device(cls, value: str, info: ValidationInfo) -> str:
        if value == "cpu" and info.data.get("text_adapter"):
            raise ValueError("expected keep, because with text_adapter the text encoder runs at every denoising step")
        return value

    @field_validator("xformers")
    @classmethod
    def _xformers_is_installed(cls, value: bool) -> bool:
        if value and importlib.util.find_spec("xformers") is None:
            raise ValueError(
                "expected false, because xformers is not installed (pip install 'vader-plugin-modelscope[xformers]')"
            )
        return value


class ModelScope:
    """The parts of a ModelScope text-to-video pipeline, frozen.

    UNet and text encoder are held in the runtime's dtype, the VAE in float32 or, if so asked, likewise.

    Args:
        options: which weights, and how they are used.
        runtime: device and dtype.

    Class attributes:
        video: the clip that is made when a spec does not say otherwise.
        spatial_multiple: pixels per latent cell, in height and in width; a checkpoint with others is refused.

    Raises:
        vader.WeightsError: if the weights are missing, truncated or of another kind of model.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "v", "sample")
    default_sampler: ClassVar[str] = "ddim"
    lora_target_modules: ClassVar[tuple[str, ...]] = (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("q_proj", "k_proj", "v_proj", "out_proj"),  # the text encoder's, which is there with text_adapter alone
    )
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = None  # UNet3DConditionModel has no load_lora_adapter: users load through peft
    video: ClassVar[Video] = Video(16, 256, 256, 8.0)
    spatial_multiple: ClassVar[int] = 8
    Options = ModelScopeOptions

    denoiser: UNet3DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    vae: AutoencoderKL
    schedule: NoiseSchedule

    def __init__(self, options: ModelScopeOptions, runtime: Runtime) -> None:
        from torch import nn

        folder = files.PIPELINE.locate(options.weights, options.revision, options.variant)
        self._put_together(options, runtime, folder, files.load, nn.Module.to)
        if options.xformers:
            self.denoiser.enable_xformers_memory_efficient_attention()

    @classmethod
    def meta_init(cls, options: ModelScopeOptions, runtime: Runtime, place: Place) -> ModelScope:
        """See :class:`vader.sdk.MetaBuildable`; the published model's configurations are part of this plugin."""
        published = options.weights == files.HUB and options.revision is None and not Path(files.HUB).is_dir()
        folder = files.PIPELINE.find(str(files.PUBLISHED) if published else options.weights, options.revision)
        backbone = cls.__new__(cls)
        backbone._put_together(options, runtime, folder, files.outline, place)
        return backbone

    def _put_together(
        self, options: ModelScopeOptions, runtime: Runtime, folder: Path, load: Any, place: Place
    ) -> None:
        import torch

        files.check_fit(folder, options.weights, self.spatial_multiple)
        scheduler = files.PIPELINE.config(folder, "scheduler", options.weights)
        self.schedule = files.schedule(scheduler, options.weights, options.zero_terminal_snr)
        vae_dtype = runtime.dtype if options.vae_precision == "run" else torch.float32
        parts = load(folder, options.weights, options.variant, runtime.dtype, vae_dtype)
        self._options, self._device, self._recompute = options, runtime.device, False
        self._negative: Tensor | None = None
        self.tokenizer = parts.tokenizer
        home = "cpu" if options.text_encoder_offload == "cpu" else runtime.device
        self.text_encoder = place(parts.text_encoder.requires_grad_(False).eval(), home)
        self.denoiser = place(parts.unet.requires_grad_(False).eval(), runtime.device)
        self.vae = place(parts.vae.requires_grad_(False).eval(), runtime.device)
        if options.text_adapter:
            from vader_modelscope.unet import attach_text_encoder

            attach_text_encoder(self.denoiser, self.text_encoder)

    @classmethod
    def resolve_video(cls, options: ModelScopeOptions, requested: Mapping[str, float]) -> Video:
        """See :meth:`vader.Backbone.resolve_video`. Any number of frames.

        Raises:
            ValueError: for a size that is no multiple of ``spatial_multiple``; all mistakes at once, each with the
                nearest possible values.
        """
        wanted = {**asdict(cls.video), **requested}
        problems = [_off_grid(side, int(wanted[side]), cls.spatial_multiple) for side in ("height", "width")]
        if any(problems):
            raise ValueError("; ".join(filter(None, problems)) + ".")
        return Video(int(wanted["frames"]), int(wanted["height"]), int(wanted["width"]), wanted["fps"])

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of ``b`` prompts; the negative prompt is encoded once and repeated.

        Returns:
            Embeddings ``(b n d)`` on the run's device, n being the tokenizer's length. With ``text_adapter`` token ids
            ``(b n 1)`` int64 in their place: then the denoiser encodes them, with gradient where it has any.
        """
        import torch

        embed = self._tokens if self._options.text_adapter else self._embed
        if self._negative is None:
            with torch.no_grad():
                self._negative = embed([self._options.negative_prompt])
        return Conditioning(embed(prompts), self._negative.expand(len(prompts), -1, -1))

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """``(b n d)``. Source: ``TextToVideoSDPipeline.encode_prompt``, whose numbers these are."""
        tokens = self._tokens(prompts)[..., 0].to(self.text_encoder.device)
        hidden: Tensor = self.text_encoder(tokens).last_hidden_state
        return hidden.to(self._device)

    def _tokens(self, prompts: Sequence[str]) -> Tensor:
        """``(b n 1)`` int64; longer prompts are cut, shorter padded."""
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        ids: Tensor = tokens.input_ids
        return ids[..., None].to(self._device)

    def predict(
        self, denoiser: nn.Module, latents: Latents, timestep: Tensor, embeds: Tensor, extras: Mapping[str, Tensor]
    ) -> Tensor:
        """Noise, velocity or clean latents, as ``schedule.prediction`` says. See :meth:`vader.Backbone.predict`.

        Returns:
            ``(b c f h w)`` float32.
        """
        dtype = self.denoiser.dtype
        prediction: Tensor = denoiser(
            latents.to(dtype),
            timestep,
            encoder_hidden_states=embeds if self._options.text_adapter else embeds.to(dtype),
            return_dict=False,
        )[0]
        return prediction.float()

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames. See :meth:`vader.Backbone.decode`.

        Raises:
            IndexError: for a frame that the latents do not hold.
        """
        from vader.sdk import from_signed

        return from_signed(self.decode_signed(latents, frames))

    def decode_signed(self, latents: Latents, frames: Sequence[int] | None = None) -> Tensor:
        """Pixels of the wanted frames as the VAE gives them: about [-1, 1], not clamped.

        Frames are decoded ``decode_slice`` at a time; with gradient checkpointing each slice is recomputed in backward,
        so that the activations of one slice alone are held at a time.

        Args:
            latents: ``(b c f h w)``, scaled as the denoiser sees them.
            frames: indices from 0, in any order; all when None.

        Returns:
            ``(b f 3 h w)`` float32, in the order asked for.

        Raises:
            IndexError: for a frame that the latents do not hold.
        """
        import torch

        count = latents.shape[2]
        wanted = list(range(count) if frames is None else frames)
        if not wanted or min(wanted) < 0 or max(wanted) >= count:
            raise IndexError(f"cannot decode frames {wanted} of a clip of {count}; expected indices 0 to {count - 1}.")
        scaled = latents[:, :, wanted].transpose(1, 2).flatten(0, 1) / self.vae.config.scaling_factor
        size = self._options.decode_slice
        with torch.autocast(latents.device.type, enabled=False):
            slices = [self._decode_slice(part) for part in scaled.to(self.vae.dtype).split(size)]
        pixels = torch.cat(slices).float()
        return pixels.reshape(len(latents), len(wanted), *pixels.shape[1:])

    def _decode_slice(self, latents: Tensor) -> Tensor:
        """``(n c h w)`` to ``(n 3 h w)``."""
        import torch
        from torch.utils.checkpoint import checkpoint

        def decode(part: Tensor) -> Any:
            return self.vae.decode(part, return_dict=False)[0]

        recompute = self._recompute and torch.is_grad_enabled()
        pixels: Tensor = checkpoint(decode, latents, use_reentrant=False) if recompute else decode(latents)
        return pixels

    def latent_shape(self, video: Video) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of one clip's latents."""
        factor = self.spatial_multiple
        return (self.vae.config.latent_channels, video.frames, video.height // factor, video.width // factor)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the UNet's layers and the slices that the VAE decodes in backward (non-reentrant)."""
        from vader_modelscope.unet import recompute_layers

        if not self._recompute:
            recompute_layers(self.denoiser)
        self._recompute = True

    @classmethod
    def import_adapter(cls, options: ModelScopeOptions, path: Path) -> tuple[AdapterSpec, Mapping[str, Tensor]] | None:
        """An adapter in the reference's format, for the UNet that ``options`` name; None for another kind of file.

        Raises:
            vader.WeightsError: it cannot be read, or is of another model.
        """
        from vader_modelscope import lora

        if path.suffix.lower() not in PICKLED:
            return None
        return lora.read(path, options.weights, options.revision)


def _off_grid(name: str, value: int, factor: int) -> str | None:
    """What is wrong with a size that should be a multiple of ``factor`` above 0, or None."""
    low = value // factor * factor
    if value == low and value > 0:
        return None
    nearest = f"the nearest are {low} and {low + factor}" if low > 0 else f"the least is {factor}"
    return f"{name} {value} is not a multiple of {factor}; {nearest}"
