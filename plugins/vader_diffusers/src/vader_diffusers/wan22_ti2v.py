"""Wan 2.2 TI2V-5B: text-to-video and image-to-video in one; a timestep per token, and its own VAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Video, sdk
from vader_diffusers import wan_parts
from vader_diffusers.wan import Wan

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """Every token has a timestep: 0 in a held first frame."""
    _, _, frames, height, width = latents.shape
    _, high, wide = backbone.configs["transformer"].patch_size
    free = timestep.new_ones(len(timestep), frames, height // high * (width // wide))
    free[:, 0] = 1 - branch["held"].to(free)[:, None]
    tokens = (free * timestep[:, None, None]).flatten(1)
    rest = {name: tensor for name, tensor in branch.items() if name != "held"}
    return sdk.call_denoiser(backbone, denoiser, latents, tokens, rest)


class Wan22TI2VOptions(wan_parts.WanOptions):
    """Options of :class:`Wan22TI2V`."""

    weights: str = sdk.published_as(HUB, "a Wan 2.2 TI2V-5B model")


class Wan22TI2V(sdk.FamilyBackbone):
    """Wan 2.2 TI2V-5B: from text, or from text and the image that the clip begins with."""

    Options = Wan22TI2VOptions
    predictions = Wan.predictions
    default_sampler = Wan.default_sampler
    takes_image: ClassVar[sdk.TakesImage] = "optional"
    published_layers = Wan.published_layers
    family = replace(
        Wan.family,
        title="Wan 2.2 TI2V-5B",
        hub=HUB,
        video=Video(121, 704, 1280, 24.0),
        grid=sdk.Grid(time=4, time_offset=1, space=32, cell=16),
        images=sdk.Images("optional", sdk.first_latents, hold=True),
        predict=_predict,
        refuse=wan_parts.only("TI2V"),
        published={HUB: Path(__file__).parent / "published" / "wan2.2-ti2v-5b"},
    )
