"""Open-Sora 1.2 (Zheng et al. 2024, arXiv 2412.20404), taken apart where gradients need it.

Importing this module imports neither torch nor diffusers, so that a spec is judged at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from vader import Conditioning, NoiseSchedule, Options, Prompt, Runtime, Video, WeightsError, sdk
from vader_opensora import lora, text
from vader_opensora import video as shapes
from vader_opensora import weights as files

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase, T5EncoderModel

    from vader.sdk import AdapterSpec, Frames, Latents, MetaTokens, Place, Prediction
    from vader_opensora.stdit3 import STDiT3
    from vader_opensora.vae import OpenSoraVAE


class OpenSoraOptions(Options):
    """Options of :class:`OpenSora`."""

    weights: str | None = Field(
        None, min_length=1, description="Local folder with all parts: denoiser, vae and text_encoder. Null: the hub."
    )
    denoiser: str | None = Field(
        None, min_length=1, description="STDiT3, a hub id (owner/name) or a folder. Null: as weights says."
    )
    vae: str | None = Field(
        None, min_length=1, description="Video autoencoder, a hub id or a folder. Null: as weights says."
    )
    text_encoder: str | None = Field(
        None, min_length=1, description="T5 with its tokenizer, a hub id or a folder. Null: as weights says."
    )
    resolution: shapes.Resolution = Field("240p", description="Size of a clip, with aspect_ratio.")
    aspect_ratio: shapes.AspectRatio = Field(
        "9:16", description="Height : width, as Open-Sora writes it; 9:16 is a landscape."
    )
    length: shapes.Length | Annotated[int, Field(ge=1)] = Field(
        "2s", description="Length of a clip: 2s (51 frames), 4s, 8s, 16s, or a number of frames."
    )
    aesthetic_score: float | None = Field(6.5, description="Aesthetic score asked for in every prompt. Null: none.")
    motion_score: float | None = Field(None, description="Amount of motion asked for in every prompt. Null: none.")
    camera_motion: str | None = Field(None, description="Camera motion asked for, such as pan right. Null: none.")
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep", description="keep: the text encoder lives on the run's device. cpu: it lives and encodes on the CPU."
    )


class OpenSora:
    """The parts of Open-Sora 1.2, frozen.

    Denoiser and text encoder are held in the runtime's dtype, the VAE always in float32.

    Args:
        options: which weights, how prompts are prepared, and the clip where nothing else says.
        runtime: device and dtype.
        video: the clip that will be made, whose size and fps the denoiser is told; None for that of the options.

    Raises:
        vader.WeightsError: if weights are missing, truncated, of another model or do not fit one another.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "opensora_rflow"
    lora_target_modules: ClassVar[tuple[str, ...]] = ("qkv", "q_linear", "kv_linear")
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = None
    memory_options: ClassVar[tuple[sdk.MemoryOption, ...]] = (sdk.MemoryOption("text_encoder_offload=cpu", "once"),)
    Options = OpenSoraOptions

    denoiser: STDiT3
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase | MetaTokens
    vae: OpenSoraVAE
    schedule: NoiseSchedule

    def __init__(self, options: OpenSoraOptions, runtime: Runtime, video: Video | None = None) -> None:
        from torch import nn

        folders = files.locate(options.weights, {part: getattr(options, part) for part in files.HUB})
        denoiser = files.load_denoiser(folders["denoiser"], runtime.dtype)
        vae = files.load_vae(folders["vae"])
        text_encoder, self.tokenizer = files.load_text(folders["text_encoder"], runtime.dtype)
        self._put_together(options, runtime, video, (denoiser, vae, text_encoder), nn.Module.to)

    @classmethod
    def meta_init(cls, options: OpenSoraOptions, runtime: Runtime, video: Video, place: Place) -> OpenSora:
        """See :class:`vader.sdk.MetaBuildable`; the sizes of the published parts are in this plugin."""
        from vader.sdk import MetaTokens
        from vader_opensora import meta_init

        backbone = cls.__new__(cls)
        parts = meta_init.parts(options.weights, {part: getattr(options, part) for part in files.HUB}, runtime.dtype)
        backbone._put_together(options, runtime, video, parts, place)
        backbone.tokenizer = MetaTokens()
        return backbone

    def _put_together(
        self,
        options: OpenSoraOptions,
        runtime: Runtime,
        video: Video | None,
        parts: tuple[STDiT3, OpenSoraVAE, T5EncoderModel],
        place: Place,
    ) -> None:
        self._options, self._device = options, runtime.device
        self.video = video or self.resolve_video(options, {})
        denoiser, vae, text_encoder = parts
        _check_fit(denoiser, vae, text_encoder)
        home = "cpu" if options.text_encoder_offload == "cpu" else runtime.device
        self.text_encoder = place(text_encoder.requires_grad_(False).eval(), home)
        self.denoiser = place(denoiser.requires_grad_(False).eval(), runtime.device)
        self.vae = place(vae.requires_grad_(False).eval(), runtime.device)
        self.schedule = NoiseSchedule("flow")

    @classmethod
    def resolve_video(cls, options: OpenSoraOptions, requested: Mapping[str, float]) -> Video:
        """See :meth:`vader.Backbone.resolve_video` and :func:`vader_opensora.video.resolve`."""
        return shapes.resolve(options.resolution, options.aspect_ratio, options.length, requested)

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts.

        Returns:
            ``embeds`` ``(b n d)`` on the run's device, n being the length of the checkpoint's embedding of no text,
            which is the unconditional branch; ``mask`` ``(b n)``, true for a prompt's tokens: as in the reference it is
            the same in both branches.
        """
        empty: Tensor = self.denoiser.y_embedder.y_embedding
        tokens = self.tokenizer(
            [self._prepared(prompt.text) for prompt in prompts],
            padding="max_length",
            max_length=len(empty),
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.text_encoder.device)
        hidden: Tensor = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask.bool().to(self._device)
        positive = {"embeds": hidden.to(self._device), "mask": mask}
        return Conditioning(positive, {"embeds": empty.expand(len(prompts), -1, -1), "mask": mask})

    def _prepared(self, prompt: str) -> str:
        """A prompt as the denoiser was trained with."""
        options = self._options
        return text.prepare(prompt, options.aesthetic_score, options.motion_score, options.camera_motion)

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        return sdk.beyond(self.tokenizer, self._prepared(text), len(self.denoiser.y_embedder.y_embedding))

    def predict(self, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Mapping[str, Tensor]) -> Tensor:
        """The velocity ``noise - clean``; Open-Sora's own has the other sign. See :meth:`vader.Backbone.predict`.

        Args:
            denoiser: see the protocol.
            latents: ``(b c f h w)``.
            timestep: ``(b,)``.
            branch: ``embeds`` ``(b n d)`` and ``mask`` ``(b n)``; if wanted ``x_mask`` ``(b f)``, false for latent
                frames that are given.

        Returns:
            ``(b c f h w)`` float32.
        """
        fps = (self.video.fps or shapes.FPS) if self.video.frames > 1 else shapes.IMAGE_FPS
        dtype = self.denoiser.dtype
        velocity: Tensor = denoiser(
            latents.to(dtype),
            timestep,
            branch["embeds"].to(dtype),
            fps=timestep.new_full(timestep.shape, fps),
            height=self.video.height,
            width=self.video.width,
            mask=branch["mask"],
            x_mask=branch.get("x_mask"),
        )
        return -velocity[:, : latents.shape[1]].float()

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames.

        Time is cut in windows of 17 frames, each decoded from its own five latent frames; the windows that hold the
        wanted frames are decoded, and of them the wanted frames alone become pixels. It runs in float32, inside
        autocast too.

        Args:
            latents: ``(b c f h w)`` of this backbone's clip.
            frames: indices from 0, in any order; all when None.

        Returns:
            ``(b f 3 h w)`` in [0, 1], in the order asked for. Sizes are those of whole latent cells.

        Raises:
            IndexError: for a frame that the clip does not have.
            ValueError: for latents of another length than the clip's.
        """
        import torch

        from vader.sdk import from_signed

        count = self.video.frames
        wanted = sdk.frame_indices(frames, count)
        if latents.shape[2] != self.vae.latent_frames(count):
            expected = f"{self.vae.latent_frames(count)} latent frames hold a clip of {count}"
            raise ValueError(f"cannot decode {latents.shape[2]} latent frames; {expected}.")
        with torch.autocast(latents.device.type, enabled=False):
            pixels = self.vae.decode(latents.float(), count, wanted)
        return from_signed(pixels.transpose(1, 2))

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """``(c, f, h, w)`` of one clip's latents.

        Raises:
            ValueError: for another clip than the one this backbone was made for.
        """
        if video != self.video:
            raise ValueError(
                f"this backbone was built for {self.video}, not for {video}: the denoiser is told size and fps. Say "
                "both in backbone.options (resolution, aspect_ratio, length), or build it with video=."
            )
        factor = self.vae.spatial_factor
        frames = self.vae.latent_frames(video.frames)
        return (self.denoiser.config.in_channels, frames, video.height // factor, video.width // factor)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the denoiser's blocks in backward (non-reentrant)."""
        self.denoiser.enable_gradient_checkpointing()

    @classmethod
    def adapter_spec(cls, path: Path) -> AdapterSpec | None:
        """See :func:`vader_opensora.lora.spec_of`."""
        return lora.spec_of(path)

    @classmethod
    def import_adapter(cls, options: OpenSoraOptions, path: Path) -> tuple[AdapterSpec, Mapping[str, Tensor]] | None:
        """See :func:`vader_opensora.lora.read`; None for another kind of file."""
        spec = lora.spec_of(path)
        return None if spec is None else (spec, lora.read(path))

    @classmethod
    def export_adapter(
        cls, options: OpenSoraOptions, spec: AdapterSpec, state: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """See :func:`vader_opensora.lora.published`."""
        return lora.published(spec, state)


def _check_fit(denoiser: STDiT3, vae: OpenSoraVAE, text_encoder: T5EncoderModel) -> None:
    """The three parts belong together.

    Raises:
        vader.WeightsError: if not.
    """
    found = {
        "width of the text embeddings": (text_encoder.config.d_model, denoiser.config.caption_channels),
        "latent channels": (vae.shift.shape[1], denoiser.config.in_channels),
        "pixels per latent cell": (vae.spatial_factor, shapes.CELL),
    }
    wrong = [f"{what}: {seen}, expected {wanted}" for what, (seen, wanted) in found.items() if seen != wanted]
    if wrong:
        raise WeightsError(
            f"denoiser, vae and text_encoder do not belong together ({'; '.join(wrong)}). Set those three options to "
            "the parts of one model."
        )
