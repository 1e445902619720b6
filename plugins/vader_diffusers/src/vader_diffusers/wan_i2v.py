"""Wan image-to-video: 2.1, which also sees the image through CLIP, and 2.2 A14B, with two experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vader import sdk
from vader_diffusers import wan_parts
from vader_diffusers.wan import Wan

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB, HUB22 = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
_PUBLISHED = Path(__file__).parent / "published"


def _encode(backbone: Any, picture: Any) -> dict[str, Tensor]:
    """The pipeline's own condition, a mask and the latents of the image before black frames; 2.1's CLIP embeddings."""
    pipeline, video, device = backbone.pipeline, backbone.video, backbone.runtime.device
    pixels = sdk.pixels(backbone, picture)
    unused = pixels.new_zeros(1)
    given = {"num_channels_latents": backbone.vae.config.z_dim, "device": device, "dtype": pixels.dtype}
    _, condition = pipeline.prepare_latents(
        pixels, 1, height=video.height, width=video.width, num_frames=video.frames, latents=unused, **given
    )
    if "image_encoder" not in backbone.family.modules:
        return {"condition": condition}
    return {"condition": condition, "encoder_hidden_states_image": pipeline.encode_image(picture, device)}


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer takes the condition as further channels."""
    import torch

    rest = {name: tensor for name, tensor in branch.items() if name != "condition"}
    return sdk.call_denoiser(backbone, denoiser, torch.cat([latents, branch["condition"]], 1), timestep, rest)


class WanI2VOptions(wan_parts.WanOptions):
    """Options of :class:`WanI2V`."""

    weights: str = sdk.published_as(HUB, "a Wan 2.1 image-to-video model")


class WanI2V(sdk.FamilyBackbone):
    """Wan 2.1 image-to-video: the clip begins with the prompt's image."""

    Options = WanI2VOptions
    predictions = Wan.predictions
    default_sampler = Wan.default_sampler
    takes_image: ClassVar[sdk.TakesImage] = "required"
    published_layers = Wan.published_layers
    lora_target_modules = (*Wan.lora_target_modules, "add_k_proj", "add_v_proj")  # the attention to CLIP's embeddings
    family = replace(
        Wan.family,
        title="Wan 2.1 image-to-video",
        pipeline="WanImageToVideoPipeline",
        hub=HUB,
        modules=wan_parts.MODULES | {"image_encoder": "transformers.CLIPVisionModel"},
        images=sdk.Images("required", _encode, {"image_processor": "CLIPImageProcessor"}),
        predict=_predict,
        check=wan_parts.image_fits,
        published={HUB: _PUBLISHED / "wan2.1-i2v-14b-480p"},
    )


class Wan22I2VOptions(wan_parts.TwoExpertsOptions):
    """Options of :class:`Wan22I2V`."""

    weights: str = sdk.published_as(HUB22, "a Wan 2.2 A14B image-to-video model")


class Wan22I2V(wan_parts.GuidesExperts, sdk.FamilyBackbone):
    """Wan 2.2 image-to-video A14B: the clip begins with the prompt's image; two experts by noise level."""

    Options = Wan22I2VOptions
    predictions = Wan.predictions
    default_sampler = Wan.default_sampler
    takes_image: ClassVar[sdk.TakesImage] = "required"
    experts = tuple(wan_parts.EXPERTS)
    memory_options = wan_parts.MEMORY
    published_layers = Wan.published_layers
    family = replace(
        WanI2V.family,
        title="Wan 2.2 A14B image-to-video",
        hub=HUB22,
        modules=wan_parts.TWO,
        experts=wan_parts.EXPERTS,
        images=sdk.Images("required", _encode),
        refuse=wan_parts.only("A14B"),
        published={HUB22: _PUBLISHED / "wan2.2-i2v-a14b"},
    )
