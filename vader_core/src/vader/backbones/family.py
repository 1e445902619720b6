"""What is special to a model family: data and a few small functions. The rest is in :mod:`vader.backbones.backbone`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from vader.backbones.kernels import Attention
from vader.backbones.quantization import Quantize
from vader.protocols import NoiseSchedule, Video
from vader.spec.options import Options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vader.backbones.backbone import FamilyBackbone
    from vader.backbones.decoding import Decoder
    from vader.backbones.images import Images
    from vader.backbones.layers import Layers
    from vader.protocols import Branch
    from vader.shapes import Latents

Encode = Callable[[Any, Sequence[str], Any], "dict[str, Tensor]"]
"""``(pipeline, texts, options) -> branch``: what the denoiser is conditioned on, each tensor with ``b`` rows."""

Predict = Callable[["FamilyBackbone", "nn.Module", "Latents", "Tensor", "Branch"], "Tensor"]
"""``(backbone, denoiser, latents (b c f h w), timestep (b,), branch) -> prediction (b c f h w)``: one call."""


@dataclass(frozen=True)
class Grid:
    """Which clips a model makes: ``step * k + time_offset`` frames, height and width multiples of ``space``.

    Args:
        time: frames per latent frame.
        time_offset: 1 for a causal autoencoder, whose first latent frame holds one frame; else 0.
        space: what height and width are multiples of: ``cell`` times the denoiser's patch.
        cell: pixels per latent cell.
        step: what the number of frames goes up in; None for ``time``.
    """

    time: int = 1
    time_offset: int = 0
    space: int = 8
    cell: int = 8
    step: int | None = None

    def resolve(self, default: Video, requested: Mapping[str, float]) -> Video:
        """The clip a spec gets.

        Raises:
            ValueError: it is off the grid; all mistakes at once, each with the nearest possible values.
        """
        wanted = {**asdict(default), **requested}
        problems = [off_grid("frames", int(wanted["frames"]), self.step or self.time, self.time_offset)]
        problems += [off_grid(side, int(wanted[side]), self.space, 0) for side in ("height", "width")]
        if any(problems):
            raise ValueError("; ".join(filter(None, problems)) + ".")
        return Video(int(wanted["frames"]), int(wanted["height"]), int(wanted["width"]), wanted["fps"])

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip."""
        return (frames - self.time_offset) // self.time + self.time_offset


Check = Callable[[Mapping[str, Any], Grid], Mapping[str, tuple[Any, Any]]]
"""``(configuration by part, grid) -> what: (found, expected)``, for parts that must fit each other and the grid."""


def off_grid(what: str, value: int, step: int, offset: int) -> str | None:
    """What is wrong with a value that is not ``step * k + offset``, at least 1; None for one that is."""
    if value % step == offset % step and value > 0:
        return None
    below = (value - offset) // step * step + offset
    near = f"the nearest are {below} and {below + step}" if below > 0 else f"the least is {offset or step}"
    rule = f"{step}k + {offset}" if offset else f"a multiple of {step}"
    return f"{what} {value} is not {rule}; {near}"


class FamilyOptions(Options):
    """Options that every family has. A family sets the default of ``weights``."""

    weights: str = Field(min_length=1, description="Pipeline in diffusers' layout: a hub id (owner/name) or a folder.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main. Not for a folder.")
    variant: str | None = Field(
        None,
        description="Variant in the weight files' names, such as fp16; parts without it have plain ones. Null: plain.",
    )
    negative_prompt: str = Field("", description="Prompt of the unconditional branch of classifier-free guidance.")
    attention: Attention = Field(
        "sdpa", description="Backend of the denoiser's attention; flash and xformers need their packages."
    )
    text_encoder_offload: Literal["keep", "cpu"] = Field(
        "keep",
        description="keep: what encodes prompts lives on the run's device. cpu: it lives and encodes on the CPU.",
    )
    block_offload: Literal["keep", "cpu"] = Field(
        "keep",
        description="keep: the denoiser's blocks live on the run's device. cpu: their frozen weights wait on the host; "
        "each block's come when it runs. With train.gradient_checkpointing one block's are there at a time.",
    )
    quantize: Quantize = Field(
        "none",
        description="Base weights of the denoiser's blocks in fewer bits, by bitsandbytes (on CUDA) or torchao. The "
        "adapter stays in float32.",
    )

    @model_validator(mode="after")
    def _one_way_to_hold_weights(self) -> FamilyOptions:
        expert_offload = getattr(self, "expert_offload", "keep")
        if self.quantize != "none" and expert_offload != "keep":
            raise ValueError("quantised experts are not moved. Set expert_offload to keep, or quantize to none.")
        if self.quantize != "none" and self.block_offload != "keep":
            raise ValueError("quantised blocks are not moved. Set block_offload to keep, or quantize to none.")
        if self.block_offload != "keep" and expert_offload != "keep":
            raise ValueError("blocks that wait on the host need no expert_offload. Set it to keep.")
        return self


class RewardDecoderOptions(Options):
    """Options of families for whose latents a tiny decoder is published."""

    reward_decoder: str | None = Field(
        None,
        min_length=1,
        description="File of a tiny decoder (TAEHV) that makes the frames that rewards score in training: a path, or "
        "hub:owner/name:file. Validation decodes by the model's own. Null: so does training.",
    )


class ExpertOptions(Options):
    """Options of families with an expert for high noise and one for low."""

    experts: tuple[Literal["high", "low"], ...] = Field(
        ("high", "low"), min_length=1, description="Experts that carry the adapter."
    )
    expert_offload: Literal["keep", "cpu"] = Field(
        "keep",
        description="keep: both experts live on the run's device. cpu: only the one in use does, the weights of both "
        "are held by the host.",
    )


def published_as(hub: str, what: str) -> Any:
    """The field ``weights`` of a family's options, with its default.

    Args:
        hub: hub id of the published pipeline.
        what: a few words for the pipeline, such as "a Wan 2.1 text-to-video model".
    """
    text = f"Diffusers pipeline of {what}: a hub id (owner/name) or a local folder."
    return Field(hub, min_length=1, description=text)


def call_denoiser(
    backbone: FamilyBackbone, denoiser: nn.Module, latents: Latents, timestep: Tensor, branch: Branch
) -> Tensor:
    """A denoiser that takes latents ``b c f h w``, and its branch by name."""
    prediction: Tensor = denoiser(hidden_states=latents, timestep=timestep, **branch, return_dict=False)[0]
    return prediction


def pipeline_encode(*names: str, **arguments: Any) -> Encode:
    """Encoding by the pipeline's own ``encode_prompt``.

    Args:
        names: the denoiser's arguments that the first outputs are; None in their place leaves an output out.
        arguments: more for ``encode_prompt``.
    """

    def encode(pipeline: Any, texts: Sequence[str], options: Any) -> dict[str, Tensor]:
        import inspect

        known = {
            "prompt": list(texts),
            "do_classifier_free_guidance": False,
            "device": next(pipeline.text_encoder.parameters()).device,
            "batch_size": len(texts),
            "max_sequence_length": getattr(options, "max_sequence_length", None),
            **arguments,
        }
        taken = inspect.signature(pipeline.encode_prompt).parameters
        given = {name: value for name, value in known.items() if name in taken and value is not None}
        found = pipeline.encode_prompt(**given)
        return {name: tensor for name, tensor in zip(names, found, strict=False) if name}

    return encode


def no_check(configs: Mapping[str, Any], grid: Grid) -> Mapping[str, tuple[Any, Any]]:
    """Nothing to check."""
    return {}


def any_clip(configs: Mapping[str, Any]) -> Video | None:
    """Every clip of the grid."""
    return None


def not_refused(index: Mapping[str, Any]) -> str | None:
    """No pipeline of the class is refused."""
    return None


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        title: a few words for it, such as "Wan 2.1 text-to-video".
        pipeline: class in diffusers, as ``model_index.json`` names it.
        hub: the published pipeline.
        video: the clip that is made when a spec does not say otherwise.
        grid: which clips it makes.
        modules: part -> class, ``diffusers.X`` or ``transformers.X``. ``vae`` and what denoises are loaded with the
            backbone; the others encode prompts, the first of them texts, and are loaded with the first prompt.
        encode: makes a branch of texts.
        decoder: makes frames of latents.
        denoiser: the part that carries adapters.
        tokenizers: part -> class in transformers.
        schedule: ``(scheduler's configuration, name, fix, options) -> noise schedule``.
        predict: one call of the denoiser.
        channels: configuration by part -> channels of the latents.
        check: see :data:`Check`.
        refuse: ``(model_index.json) -> what else it is``, for pipelines of the same class that are another model.
        prepare: called with the backbone once its parts are loaded.
        checkpointing: recomputes the denoiser's layers in backward; None for diffusers' own.
        images: how it is conditioned on an image; None for a family that takes none.
        experts: name -> part, for denoisers by noise level, the first from ``boundary_ratio`` of ``model_index.json``
            up, the second below it; empty for one denoiser.
        layers: where the denoiser keeps its layers; None where they cannot be taken apart.
        encoder: ``(vae, pixels (b 3 f h w) in [-1, 1]) -> latents`` as the denoiser sees them; None for none.
        fixed: ``(configuration by part) -> the only clip that a checkpoint makes``; None for any of the grid.
        text_tokens: tokens of a text that are taken, without an option ``max_sequence_length``; None: as many as the
            first tokenizer says.
        published: hub id -> folder with that pipeline's configurations, for ``vader estimate`` without a connection.
    """

    title: str
    pipeline: str
    hub: str
    video: Video
    grid: Grid
    modules: Mapping[str, str]
    encode: Encode
    decoder: Decoder
    schedule: Callable[[Mapping[str, Any], str, str, Any], NoiseSchedule]
    channels: Callable[[Mapping[str, Any]], int]
    denoiser: str = "transformer"
    tokenizers: Mapping[str, str] = field(default_factory=lambda: {"tokenizer": "AutoTokenizer"})
    predict: Predict = call_denoiser
    check: Check = no_check
    refuse: Callable[[Mapping[str, Any]], str | None] = not_refused
    prepare: Callable[[FamilyBackbone], None] | None = None
    checkpointing: Callable[[nn.Module], None] | None = None
    images: Images | None = None
    experts: Mapping[str, str] = field(default_factory=dict)
    layers: Layers | None = None
    encoder: Callable[[Any, Tensor], Latents] | None = None
    fixed: Callable[[Mapping[str, Any]], Video | None] = any_clip
    text_tokens: int | None = None
    published: Mapping[str, Path] = field(default_factory=dict)

    @property
    def fix(self) -> str:
        """Where to get one: the end of every message."""
        return (
            f"Set `weights` to a {self.title} pipeline in diffusers' layout: a hub id such as {self.hub}, or a folder "
            f"that `hf download {self.hub} --local-dir FOLDER` has filled."
        )

    @property
    def denoisers(self) -> list[str]:
        """The parts that denoise."""
        return [*self.experts.values()] or [self.denoiser]

    @property
    def encoders(self) -> list[str]:
        """The parts that encode prompts, texts first."""
        return [part for part in self.modules if part not in ("vae", *self.denoisers)]

    @property
    def processors(self) -> Mapping[str, str]:
        """What prepares images for their encoder: part -> class in transformers."""
        return self.images.processors if self.images is not None else {}
