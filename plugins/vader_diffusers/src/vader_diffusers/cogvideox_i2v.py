"""CogVideoX image-to-video (Yang et al. 2024, arXiv 2408.06072)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Video, sdk
from vader_diffusers.cogvideox import CogVideoX, CogVideoXOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "THUDM/CogVideoX-5b-I2V"


def _encode(backbone: Any, picture: Any) -> dict[str, Tensor]:
    """Latents of the image, drawn from the autoencoder's distribution with seed 0, before empty frames.

    Source: ``prepare_latents`` of diffusers' ``CogVideoXImageToVideoPipeline``.
    """
    import torch

    vae, config = backbone.vae, backbone.vae.config
    pixels, seeded = sdk.pixels(backbone, picture), torch.Generator().manual_seed(0)
    with torch.autocast(pixels.device.type, enabled=False):
        drawn = vae.encode(pixels[:, :, None].to(vae.dtype)).latent_dist.sample(seeded).float()
    scaled = drawn / config.scaling_factor if config.invert_scale_latents else drawn * config.scaling_factor
    channels, frames, height, width = backbone.latent_shape(backbone.video)
    return {"condition": torch.cat([scaled, scaled.new_zeros(1, channels, frames - 1, height, width)], 2)}


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer takes the image's latents as further channels."""
    import torch

    rest = {name: tensor for name, tensor in branch.items() if name != "condition"}
    joined = torch.cat([latents, branch["condition"]], 1)
    return CogVideoX.family.predict(backbone, denoiser, joined, timestep, rest)


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> Mapping[str, tuple[Any, Any]]:
    found = dict(CogVideoX.family.check(configs, grid))
    found["channels into the transformer"] = (configs["transformer"].in_channels, 2 * configs["vae"].latent_channels)
    return found


def _fixed(configs: Mapping[str, Any]) -> Video | None:
    """Learned position embeddings fit one size alone."""
    net, cell = configs["transformer"], 2 ** (len(configs["vae"].block_out_channels) - 1)
    if not net.use_learned_positional_embeddings:
        return None
    return Video(net.sample_frames, net.sample_height * cell, net.sample_width * cell)


class CogVideoXI2VOptions(CogVideoXOptions):
    """Options of :class:`CogVideoXI2V`."""

    weights: str = sdk.published_as(HUB, "a CogVideoX 1.0 image-to-video model")


class CogVideoXI2V(CogVideoX):
    """CogVideoX 1.0 image-to-video: the clip begins with the prompt's image."""

    Options = CogVideoXI2VOptions
    takes_image: ClassVar[sdk.TakesImage] = "required"
    family = replace(
        CogVideoX.family,
        title="CogVideoX 1.0 image-to-video",
        pipeline="CogVideoXImageToVideoPipeline",
        hub=HUB,
        images=sdk.Images("required", _encode),
        predict=_predict,
        check=_check,
        fixed=_fixed,
        published={HUB: Path(__file__).parent / "published" / "cogvideox-5b-i2v"},
    )
