"""CogVideoX text-to-video (Yang et al. 2024, arXiv 2408.06072)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Video, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "THUDM/CogVideoX-2b"


class CogVideoXOptions(sdk.FamilyOptions, sdk.RewardDecoderOptions):
    """Options of :class:`CogVideoX`."""

    weights: str = sdk.published_as(HUB, "a CogVideoX 1.0 text-to-video model")
    max_sequence_length: int = Field(226, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")
    dynamic_guidance: bool = Field(False, description="Guidance that grows with the steps, as the pipeline's option.")


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer takes latents ``b f c h w`` and, if the checkpoint has them, rotary embeddings."""
    frames, height, width = latents.shape[2], 8 * latents.shape[3], 8 * latents.shape[4]
    rotary = None
    if backbone.configs["transformer"].use_rotary_positional_embeddings:
        make = backbone.pipeline._prepare_rotary_positional_embeddings
        rotary = make(height, width, frames, latents.device)
    given = {"hidden_states": latents.transpose(1, 2), "timestep": timestep, "image_rotary_emb": rotary, **branch}
    return denoiser(**given, return_dict=False)[0].transpose(1, 2)


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    transformer, vae = configs["transformer"], configs["vae"]
    return {
        "latent frames per patch": (transformer.patch_size_t or 1, 1),
        "pixels per patch": (2 ** (len(vae.block_out_channels) - 1) * transformer.patch_size, 16),
        "frames per latent frame": (int(vae.temporal_compression_ratio), 4),
        "channels into the transformer": (transformer.in_channels, vae.latent_channels),
        "width of the text embeddings": (transformer.text_embed_dim, configs["text_encoder"].d_model),
    }


class CogVideoX(sdk.FamilyBackbone):
    """CogVideoX 1.0 text-to-video. Its denoiser predicts the velocity of a variance-preserving process."""

    Options = CogVideoXOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("v",)
    default_sampler: ClassVar[str] = "ddim"
    family = sdk.Family(
        title="CogVideoX 1.0 text-to-video",
        pipeline="CogVideoXPipeline",
        hub=HUB,
        video=Video(49, 480, 720, 8.0),
        grid=sdk.Grid(time=4, time_offset=1, space=16, cell=8, step=8),  # its decoder takes odd counts of latent frames
        modules={
            "transformer": "diffusers.CogVideoXTransformer3DModel",
            "text_encoder": "transformers.T5EncoderModel",
            "vae": "diffusers.AutoencoderKLCogVideoX",
        },
        encode=sdk.pipeline_encode("encoder_hidden_states"),
        decoder=sdk.CausalPrefix(sdk.by_factor, batch=2),
        encoder=sdk.encoded_by_factor,
        layers=sdk.Layers("transformer_blocks"),
        schedule=sdk.diffusion_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        published={HUB: Path(__file__).parent / "published" / "cogvideox-2b"},
    )

    def guidance_scale_at(self, scale: float, timestep: float, steps: int) -> float:
        """The scale of one step. Source: ``use_dynamic_cfg`` of diffusers' ``CogVideoXPipeline``, as it is written."""
        if not self.options.dynamic_guidance:  # type: ignore[attr-defined]
            return scale
        return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2
