"""Wan 2.1 text-to-video (Wan et al. 2025, arXiv 2503.20314), taken apart where gradients need it.

Importing this module imports neither torch nor diffusers, so that a spec is judged at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader import Conditioning, NoiseSchedule, Options, Runtime, Video, WeightsError
from vader_diffusers import weights as files

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

    from vader.sdk import Frames, Latents, Place, Prediction


class WanOptions(Options):
    """Options of :class:`Wan`."""

    weights: str = Field(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        min_length=1,
        description="Diffusers pipeline of a Wan 2.1 text-to-video model: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main. Not for a folder.")
    variant: str | None = Field(
        None, description="Variant in the weight files' names, such as fp16. Null: plain names."
    )
    max_sequence_length: int = Field(512, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")
    negative_prompt: str = Field("", description="Prompt of the unconditional branch of classifier-free guidance.")
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep", description="keep: the text encoder lives on the run's device. cpu: it lives and encodes on the CPU."
    )


class Wan:
    """The parts of a Wan 2.1 text-to-video pipeline, frozen.

    The transformer and the text encoder are held in the runtime's dtype (diffusers and transformers keep some of
    their modules in float32), the VAE always in float32.

    Args:
        options: which weights, and how prompts are encoded.
        runtime: device and dtype.

    Class attributes:
        video: the clip that is made when a spec does not say otherwise.
        temporal_factor: frames per latent frame, the first latent frame holding one; clips have ``factor * k + 1``.
        spatial_multiple: what height and width are multiples of: the VAE's factor times the transformer's patch.

    Raises:
        vader.WeightsError: if the weights are missing, truncated, of another kind of model, or do not have the
            class's ``temporal_factor`` and ``spatial_multiple``.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = "transformer"
    video: ClassVar[Video] = Video(81, 480, 832, 16.0)
    temporal_factor: ClassVar[int] = 4
    spatial_multiple: ClassVar[int] = 16
    Options = WanOptions

    denoiser: WanTransformer3DModel
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    vae: AutoencoderKLWan
    schedule: NoiseSchedule

    def __init__(self, options: WanOptions, runtime: Runtime) -> None:
        from torch import nn

        folder = files.PIPELINE.locate(options.weights, options.revision, options.variant)
        self._put_together(options, runtime, folder, files.load, nn.Module.to)

    @classmethod
    def meta_init(cls, options: WanOptions, runtime: Runtime, place: Place) -> Wan:
        """See :class:`vader.sdk.MetaBuildable`; the configurations of the published 1.3B are in this plugin."""
        published = options.weights == files.HUB and options.revision is None and not Path(files.HUB).is_dir()
        folder = files.PIPELINE.find(str(files.PUBLISHED) if published else options.weights, options.revision)
        backbone = cls.__new__(cls)
        backbone._put_together(options, runtime, folder, files.outline, place)
        return backbone

    def _put_together(self, options: WanOptions, runtime: Runtime, folder: Path, load: Any, place: Place) -> None:
        parts = load(folder, options.weights, options.variant, runtime.dtype)
        self._check_sizes(parts, options.weights)
        self._options, self._device = options, runtime.device
        self._negative: Tensor | None = None
        self.schedule = parts.schedule
        self.tokenizer = parts.tokenizer
        home = "cpu" if options.text_encoder_offload == "cpu" else runtime.device
        self.text_encoder = place(parts.text_encoder.requires_grad_(False).eval(), home)
        self.denoiser = place(parts.transformer.requires_grad_(False).eval(), runtime.device)
        self.vae = place(parts.vae.requires_grad_(False).eval(), runtime.device)

    @classmethod
    def resolve_video(cls, options: WanOptions, requested: Mapping[str, float]) -> Video:
        """See :meth:`vader.Backbone.resolve_video`.

        Raises:
            ValueError: for a frame count other than ``temporal_factor * k + 1`` or a size that is no multiple of
                ``spatial_multiple``; all mistakes at once, each with the nearest possible values.
        """
        wanted = {**asdict(cls.video), **requested}
        problems = [_off_grid("frames", int(wanted["frames"]), cls.temporal_factor, 1)]
        problems += [_off_grid(side, int(wanted[side]), cls.spatial_multiple, 0) for side in ("height", "width")]
        if any(problems):
            raise ValueError("; ".join(filter(None, problems)) + ".")
        return Video(int(wanted["frames"]), int(wanted["height"]), int(wanted["width"]), wanted["fps"])

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of ``b`` prompts; the negative prompt is encoded once and repeated.

        Returns:
            Embeddings ``(b n d)`` on the run's device, n being ``max_sequence_length``, zero after a prompt's end.
        """
        import torch

        if self._negative is None:
            with torch.no_grad():
                self._negative = self._embed([self._options.negative_prompt])
        return Conditioning(self._embed(prompts), self._negative.expand(len(prompts), -1, -1))

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """``(b n d)``. Source: ``WanPipeline._get_t5_prompt_embeds``, whose numbers these are."""
        from diffusers.pipelines.wan.pipeline_wan import prompt_clean

        tokens = self.tokenizer(
            [prompt_clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self._options.max_sequence_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.text_encoder.device)
        hidden: Tensor = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return hidden.masked_fill(tokens.attention_mask[..., None] == 0, 0.0).to(self._device)

    def predict(
        self, denoiser: nn.Module, latents: Latents, timestep: Tensor, embeds: Tensor, extras: Mapping[str, Tensor]
    ) -> Tensor:
        """The velocity ``noise - clean``. See :meth:`vader.Backbone.predict`.

        Returns:
            ``(b c f h w)`` float32.
        """
        dtype = self.denoiser.dtype
        velocity: Tensor = denoiser(
            hidden_states=latents.to(dtype),
            timestep=timestep,
            encoder_hidden_states=embeds.to(dtype),
            return_dict=False,
        )[0]
        return velocity.float()

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames.

        The VAE is causal: a frame depends on its own and earlier latent frames only, so the shortest prefix of latent
        frames that holds the wanted ones gives the same pixels as all of them, and the frames near the start are
        cheap. It runs in float32, inside autocast too.

        Args:
            latents: ``(b c f h w)``, normalised as the denoiser sees them.
            frames: indices from 0, in any order; all when None.

        Returns:
            ``(b f 3 h w)`` in [0, 1], in the order asked for.

        Raises:
            IndexError: for a frame that the latents do not hold.
        """
        import torch

        from vader.sdk import from_signed

        count = (latents.shape[2] - 1) * self.temporal_factor + 1
        wanted = list(range(count) if frames is None else frames)
        if not wanted or min(wanted) < 0 or max(wanted) >= count:
            raise IndexError(f"cannot decode frames {wanted} of a clip of {count}; expected indices 0 to {count - 1}.")
        prefix = -(-max(wanted) // self.temporal_factor) + 1
        with torch.autocast(latents.device.type, enabled=False):
            pixels = self.vae.decode(self._unnormalised(latents[:, :, :prefix]), return_dict=False)[0]
        return from_signed(pixels[:, :, wanted].transpose(1, 2))

    def _unnormalised(self, latents: Latents) -> Latents:
        """Latents as the VAE wants them, ``(b c f h w)``. Source: ``WanPipeline.__call__``, operation by operation."""
        latents = latents.to(self.vae.dtype)
        config = self.vae.config
        mean = latents.new_tensor(config.latents_mean).view(1, -1, 1, 1, 1)
        inverse_std = 1.0 / latents.new_tensor(config.latents_std).view(1, -1, 1, 1, 1)
        return latents / inverse_std + mean

    def latent_shape(self, video: Video) -> tuple[int, int, int, int]:
        """``(c, f, h, w)`` of one clip's latents."""
        factor = files.spatial_factor(self.vae.config)
        frames = (video.frames - 1) // self.temporal_factor + 1
        return (self.vae.config.z_dim, frames, video.height // factor, video.width // factor)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the transformer's blocks in backward (non-reentrant)."""
        self.denoiser.enable_gradient_checkpointing()

    @classmethod
    def _check_sizes(cls, parts: files.Parts, name: str) -> None:
        """What was promised before loading holds of what was loaded.

        Raises:
            vader.WeightsError: if not.
        """
        vae, transformer = parts.vae.config, parts.transformer.config
        patch = tuple(transformer.patch_size)
        space = files.spatial_factor(vae)
        found = {
            "frames per latent frame": (files.temporal_factor(vae), cls.temporal_factor),
            "latent frames per patch": (patch[0], 1),
            "pixels per patch in height": (space * patch[1], cls.spatial_multiple),
            "pixels per patch in width": (space * patch[2], cls.spatial_multiple),
            "channels into the transformer": (transformer.in_channels, vae.z_dim),
            "channels out of the transformer": (transformer.out_channels or transformer.in_channels, vae.z_dim),
            "width of the text embeddings": (transformer.text_dim, parts.text_encoder.config.d_model),
        }
        wrong = [f"{what}: {seen}, expected {wanted}" for what, (seen, wanted) in found.items() if seen != wanted]
        if wrong:
            raise WeightsError(f"{name} does not fit the backbone {cls.__name__} ({'; '.join(wrong)}). {files.FIX}")


def _off_grid(what: str, value: int, step: int, offset: int) -> str | None:
    """What is wrong with a value that is not ``step * k + offset``, at least 1; None for one that is."""
    if value % step == offset % step:
        return None
    below = (value - offset) // step * step + offset
    near = f"the nearest are {below} and {below + step}" if below > 0 else f"the least is {below + step}"
    rule = f"{step}k + {offset}" if offset else f"a multiple of {step}"
    return f"{what} {value} is not {rule}; {near}"
