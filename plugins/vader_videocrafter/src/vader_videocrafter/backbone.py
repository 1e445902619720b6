"""VideoCrafter2 text-to-video (Chen et al. 2024, arXiv 2401.09047), taken apart where gradients need it.

Importing this module imports neither torch nor diffusers, so that a spec is judged at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader import Conditioning, NoiseSchedule, Options, Prompt, Runtime, Video, sdk

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vader.sdk import AdapterSpec, Conversion, Frames, Latents, Place, Prediction
    from vader_videocrafter.weights import Parts


class VideoCrafter2Options(Options):
    """Options of :class:`VideoCrafter2`."""

    weights: str = Field(
        "VideoCrafter/VideoCrafter2",
        min_length=1,
        description="Checkpoint as published (model.ckpt) or as .safetensors: a hub id, a file, or its folder.",
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit on the hub. Null: main. Not for a local file."
    )
    fps: float | None = Field(None, gt=0, description="Frame rate that the denoiser is told. Null: video.fps.")
    max_frames: int = Field(
        16, ge=1, description="Most frames of a clip: 16 as in training; further ones may look worse."
    )
    negative_prompt: str = Field("", description="Prompt of the unconditional branch of classifier-free guidance.")
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep", description="keep: the text encoder lives on the run's device. cpu: it lives and encodes on the CPU."
    )
    decode_at_once: int = Field(1, ge=1, description="Frames that are decoded together; more take more memory.")


class VideoCrafter2:
    """The parts of a VideoCrafter text-to-video checkpoint, frozen: 512 v1 and v2, and 1024.

    Denoiser and text encoder are held in the runtime's dtype, the first stage always in float32.

    Args:
        options: which weights, and how clips are conditioned and decoded.
        runtime: device and dtype.
        video: the clip to be made; its frame rate is what the denoiser is told, unless ``options.fps`` is set.

    Class attributes:
        video: the clip that is made when a spec does not say otherwise.
        spatial_multiple: what height and width are multiples of.

    Raises:
        vader.WeightsError: if the checkpoint is missing, truncated, or of another model; image-to-video is another.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon",)
    default_sampler: ClassVar[str] = "videocrafter_ddim"
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v")
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = None
    memory_options: ClassVar[tuple[sdk.MemoryOption, ...]] = (sdk.MemoryOption("text_encoder_offload=cpu", "once"),)
    video: ClassVar[Video] = Video(16, 320, 512, 24.0)
    spatial_multiple: ClassVar[int] = 16
    Options = VideoCrafter2Options

    denoiser: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any
    schedule: NoiseSchedule

    def __init__(self, options: VideoCrafter2Options, runtime: Runtime, video: Video | None = None) -> None:
        from vader_videocrafter import weights

        path = weights.locate(options.weights, options.revision)
        text_device = self._text_home(options, runtime)
        parts = weights.load(path, options.weights, runtime.device, runtime.dtype, text_device)
        self._put_together(options, runtime, video, parts)

    @classmethod
    def meta_init(cls, options: VideoCrafter2Options, runtime: Runtime, video: Video, place: Place) -> VideoCrafter2:
        """See :class:`vader.sdk.MetaBuildable`; the sizes of the published 512 v2 are in this plugin."""
        from vader_videocrafter import meta_init

        backbone = cls.__new__(cls)
        parts = meta_init.parts(options.weights, options.revision, runtime.dtype)
        for module in (parts.unet, parts.vae):
            place(module, runtime.device)
        place(parts.text_encoder, cls._text_home(options, runtime))
        backbone._put_together(options, runtime, video, parts)
        return backbone

    @staticmethod
    def _text_home(options: VideoCrafter2Options, runtime: Runtime) -> torch.device:
        import torch

        return torch.device("cpu") if options.text_encoder_offload == "cpu" else runtime.device

    def _put_together(self, options: VideoCrafter2Options, runtime: Runtime, video: Video | None, parts: Parts) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._options, self._device, self._dtype = options, runtime.device, runtime.dtype
        self._fps = options.fps or (video or self.video).fps or self.video.fps
        self._negative: Tensor | None = None
        self.layout = parts.layout
        self.denoiser, self.vae, self.text_encoder = parts.unet, parts.vae, parts.text_encoder
        self.tokenizer = SimpleTokenizer(context_length=parts.layout.text.length)
        self.schedule = parts.schedule

    @classmethod
    def resolve_video(cls, options: VideoCrafter2Options, requested: Mapping[str, float]) -> Video:
        """See :meth:`vader.Backbone.resolve_video`.

        Raises:
            ValueError: for more than ``max_frames`` frames or a size that is no multiple of ``spatial_multiple``; all
                mistakes at once, each with what is possible.
        """
        wanted = {**asdict(cls.video), **requested}
        frames, problems = int(wanted["frames"]), []
        if frames > options.max_frames:
            problems.append(
                f"frames {frames} is more than {options.max_frames}, the length of training's clips; "
                f"take {options.max_frames} or fewer, or raise backbone.options.max_frames"
            )
        for side in ("height", "width"):
            below = int(wanted[side]) // cls.spatial_multiple * cls.spatial_multiple
            if below != wanted[side]:
                above = below + cls.spatial_multiple
                near = f"the nearest are {below} and {above}" if below else f"the least is {above}"
                problems.append(f"{side} {wanted[side]:g} is not a multiple of {cls.spatial_multiple}; {near}")
        if problems:
            raise ValueError("; ".join(problems) + ".")
        return Video(frames, int(wanted["height"]), int(wanted["width"]), wanted["fps"])

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts; the negative prompt is encoded once and repeated.

        Returns:
            ``embeds`` ``(b n d)`` on the run's device and, where the network is told the frame rate, ``fps`` ``(b,)``
            float32, in both branches.
        """
        import torch

        if self._negative is None:
            with torch.no_grad():
                self._negative = self._embed([self._options.negative_prompt])
        told = torch.full((len(prompts),), float(self._fps or 0), device=self._device)
        rate = {"fps": told} if self.layout.unet.fps else {}
        positive = {"embeds": self._embed([prompt.text for prompt in prompts]), **rate}
        return Conditioning(positive, {"embeds": self._negative.expand(len(prompts), -1, -1), **rate})

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        words = self.tokenizer
        return sdk.beyond_room(text, words.context_length - 2, words.encode, words.decode)

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """``(b n d)``: tokens beyond the encoder's length are cut, shorter prompts padded with token 0."""
        tokens = self.tokenizer(list(prompts))
        embeds: Tensor = self.text_encoder(tokens.to(self.text_encoder.attn_mask.device))
        return embeds.to(self._device)

    def predict(self, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Mapping[str, Tensor]) -> Tensor:
        """The noise. See :meth:`vader.Backbone.predict`.

        Returns:
            ``(b c f h w)`` float32.
        """
        noise: Tensor = denoiser(
            latents.to(self._dtype),
            timestep,
            branch["embeds"].to(self._dtype),
            timestep_cond=branch.get("fps"),
            return_dict=False,
        )[0]
        return noise.float()

    def decode(self, latents: Latents, frames: Sequence[int] | None = None) -> Frames:
        """Pixels of the wanted frames; only those are decoded, in float32, inside autocast too.

        Args:
            latents: ``(b c f h w)``, as the denoiser sees them.
            frames: indices from 0, in any order; all when None.

        Returns:
            ``(b f 3 h w)`` in [0, 1], in the order asked for.

        Raises:
            IndexError: for a frame that the latents do not hold.
        """
        import torch

        from vader.sdk import from_signed
        from vader_videocrafter.network import pixels

        count = latents.shape[2]
        wanted = sdk.frame_indices(frames, count)
        with torch.autocast(latents.device.type, enabled=False):
            return from_signed(pixels(self.vae, latents[:, :, wanted].float(), self._options.decode_at_once))

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """``(c, f, h, w)`` of one clip's latents."""
        factor = self.layout.vae.factor
        return (self.layout.unet.latent_channels, video.frames, video.height // factor, video.width // factor)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the denoiser's residual blocks, temporal convolutions and transformers in backward."""
        from vader_videocrafter.network import recompute_blocks

        recompute_blocks(self.denoiser)

    @classmethod
    def adapter_spec(cls, path: Path) -> AdapterSpec | None:
        """Rank, alpha and target modules of an adapter in VADER's published format; None for another kind of file.

        Raises:
            vader.WeightsError: it cannot be read, or its tensors have different ranks.
        """
        from vader_videocrafter import lora

        return lora.spec_of(path)

    @classmethod
    def import_adapter(
        cls, options: VideoCrafter2Options, path: Path
    ) -> tuple[AdapterSpec, Mapping[str, Tensor]] | None:
        """An adapter in VADER's published format, under the names of the denoiser's layers; None for another file.

        The names follow the checkpoint that ``options`` name; all published ones have the same.

        Raises:
            vader.WeightsError: it cannot be read, or is of another model.
        """
        from vader_videocrafter import lora, weights

        spec = lora.spec_of(path)
        return None if spec is None else (spec, lora.read(path, weights.denoiser_names(options.weights)))

    @classmethod
    def export_adapter(
        cls, options: VideoCrafter2Options, spec: AdapterSpec, state: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """What the reference loads. See :func:`vader_videocrafter.lora.published`."""
        from vader_videocrafter import lora, weights

        return lora.published(state, spec.alpha or spec.rank, weights.denoiser_names(options.weights))

    @classmethod
    def conversion(cls, options: VideoCrafter2Options, dtype: torch.dtype | None) -> Conversion:
        """The checkpoint under its published names. See :func:`vader_videocrafter.weights.conversion`."""
        from vader_videocrafter import weights

        return weights.conversion(weights.locate(options.weights, options.revision), options.weights, dtype)
