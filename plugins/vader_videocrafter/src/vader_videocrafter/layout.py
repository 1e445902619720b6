"""The sizes of a VideoCrafter checkpoint, read from the names and shapes of its tensors, so that no
configuration file is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vader import WeightsError

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor of a checkpoint, by its published name."""

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
HEAD_WIDTH = 64
"""Width of an attention head of OpenCLIP's text encoders."""
INPUT_HEADS = 8
"""Heads of the UNet's input attention, which shapes do not tell."""
_IMAGE_MARKS = (
    "image_proj_model.",
    "embedder.model.visual.",
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip",
)

FIX = (
    "Set `weights` to a VideoCrafter text-to-video checkpoint: a hub id such as VideoCrafter/VideoCrafter2, its "
    "model.ckpt, or a .safetensors file that `vader convert weights` has made."
)


@dataclass(frozen=True)
class UNetLayout:
    """Sizes of the denoiser.

    Args:
        latent_channels: channels in and out.
        channels: of each level, from full resolution down.
        attention: whether each level has attention.
        layers: residual blocks of a level on the way down; one more on the way up.
        head_dim: width of an attention head.
        context_dim: width of the text embeddings.
        temporal_conv: whether residual blocks convolve over time (512 v2).
        fps: whether the network is told the frame rate (512 v2 and 1024).
        relative_length: the farthest distance in frames that temporal attention tells apart (512 v1 and 1024); None
            for attention without positions.
    """

    latent_channels: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int
    head_dim: int
    context_dim: int
    temporal_conv: bool
    fps: bool
    relative_length: int | None


PUBLISHED = UNetLayout(4, (320, 640, 1280, 1280), (True, True, True, False), 2, 64, 1024, True, True, None)
"""The denoiser of 512 v2. Those of 512 v1 and 1024 have the same layers where adapters go."""


@dataclass(frozen=True)
class VAELayout:
    """Sizes of the first stage: latent channels, channels of each level, residual blocks of a level on the way down."""

    latent_channels: int
    channels: tuple[int, ...]
    layers: int

    @property
    def factor(self) -> int:
        """Pixels per latent cell, in height and in width."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True)
class TextLayout:
    """Sizes of the text encoder; ``layers`` counts the last one, whose output is not used."""

    width: int
    length: int
    vocabulary: int
    layers: int

    @property
    def heads(self) -> int:
        """Attention heads, each of :data:`HEAD_WIDTH`."""
        return max(1, self.width // HEAD_WIDTH)


PUBLISHED_TEXT = TextLayout(1024, 77, 49408, 24)
"""OpenCLIP ViT-H/14. Its number of layers is checked: a missing last one would make another the penultimate."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the three networks of a checkpoint."""

    unet: UNetLayout
    vae: VAELayout
    text: TextLayout


def read(shapes: Shapes, name: str) -> Layout:
    """The sizes of a checkpoint.

    Args:
        shapes: of all its tensors.
        name: what the user calls it, for errors.

    Raises:
        vader.WeightsError: it is no VideoCrafter checkpoint, an image-to-video one, or its parts do not fit together.
    """
    if mark := next((key for key in shapes if key.startswith(_IMAGE_MARKS)), None):
        raise WeightsError(
            f"{name} is an image-to-video checkpoint (it has {mark}, among others); this backbone is text-to-video "
            f"only. {FIX}"
        )
    try:
        layout = Layout(read_unet(shapes), read_vae(shapes), _text(shapes))
    except KeyError as error:
        raise WeightsError(
            f"{name} is no VideoCrafter text-to-video checkpoint: of its {len(shapes)} tensors none is called "
            f"{error.args[0]}. {FIX}"
        ) from error
    except (IndexError, ValueError) as error:
        raise WeightsError(
            f"{name} has tensors of shapes that no VideoCrafter checkpoint has ({error}). {FIX}"
        ) from error
    unet, vae, text = layout.unet, layout.vae, layout.text
    pairs = {
        "width of the text embeddings": (text.width, unet.context_dim),
        "latent channels": (vae.latent_channels, unet.latent_channels),
    }
    wrong = [f"{what}: {a} made, {b} taken by the denoiser" for what, (a, b) in pairs.items() if a != b]
    if wrong:
        raise WeightsError(f"the networks in {name} do not fit together ({'; '.join(wrong)}). {FIX}")
    return layout


def read_unet(shapes: Shapes) -> UNetLayout:
    known = _prefixes(shapes)
    layers = _count(known, f"{UNET}input_blocks.{{}}.0.in_layers", first=1)
    stride = layers + 1
    levels = 1 + _count(known, f"{UNET}input_blocks.{{}}.0.op", first=stride, stride=stride, least=0)
    firsts = [f"{UNET}input_blocks.{1 + level * stride}" for level in range(levels)]
    middle, inner = f"{UNET}middle_block", shapes[f"{UNET}init_attn.0.proj_in.weight"][0]
    if inner < INPUT_HEADS:
        raise ValueError(f"the input attention is {inner} wide; expected at least {INPUT_HEADS}")
    table = f"{middle}.2.transformer_blocks.0.attn1.relative_position_k"
    return UNetLayout(
        latent_channels=shapes[f"{UNET}input_blocks.0.0.weight"][1],
        channels=tuple(shapes[f"{first}.0.out_layers.3.weight"][0] for first in firsts),
        attention=tuple(f"{first}.1" in known for first in firsts),
        layers=layers,
        head_dim=inner // INPUT_HEADS,
        context_dim=shapes[f"{middle}.1.transformer_blocks.0.attn2.to_k.weight"][1],
        temporal_conv=f"{middle}.0.temopral_conv" in known,
        fps=f"{UNET}fps_embedding" in known,
        relative_length=shapes[f"{table}.embeddings_table"][0] // 2 if table in known else None,
    )


def read_vae(shapes: Shapes) -> VAELayout:
    known = _prefixes(shapes)
    levels = _count(known, f"{VAE}encoder.down.{{}}")
    channels = [shapes[f"{VAE}encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)]
    layers = _count(known, f"{VAE}encoder.down.0.block.{{}}")
    return VAELayout(shapes[f"{VAE}decoder.conv_in.weight"][1], tuple(channels), layers)


def _text(shapes: Shapes) -> TextLayout:
    length, width = shapes[f"{TEXT}positional_embedding"]
    layers = _count(_prefixes(shapes), f"{TEXT}transformer.resblocks.{{}}")
    wanted = max(2, PUBLISHED_TEXT.layers if width == PUBLISHED_TEXT.width else 0)
    if layers < wanted:
        raise KeyError(f"{TEXT}transformer.resblocks.{wanted - 1}.ln_1.weight")
    return TextLayout(width, length, shapes[f"{TEXT}token_embedding.weight"][0], layers)


def _prefixes(shapes: Shapes) -> set[str]:
    """Every beginning of every name, up to a dot."""
    return {name[:place] for name in shapes for place, letter in enumerate(name) if letter == "."}


def _count(known: set[str], pattern: str, first: int = 0, stride: int = 1, least: int = 1) -> int:
    """How many of the numbered places of a pattern there are.

    Raises:
        KeyError: there are fewer than ``least``.
    """
    count = 0
    while pattern.format(first + count * stride) in known:
        count += 1
    if count < least:
        raise KeyError(f"{pattern.format(first)}.*")
    return count
