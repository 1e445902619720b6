"""HunyuanVideo 1.0 text-to-video (Kong et al. 2024, arXiv 2412.03603)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Video, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "hunyuanvideo-community/HunyuanVideo"


class HunyuanVideoOptions(sdk.FamilyOptions, sdk.RewardDecoderOptions):
    """Options of :class:`HunyuanVideo`."""

    weights: str = sdk.published_as(HUB, "a HunyuanVideo 1.0 text-to-video model")
    max_sequence_length: int = Field(256, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")
    vae_tiling: bool = Field(False, description="Decode in tiles, as the pipeline's vae.enable_tiling: less memory.")
    embedded_guidance: float = Field(
        6.0, ge=0, description="Guidance scale that the network is told; sampler.guidance_scale is true guidance."
    )


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer is told a guidance scale, times 1000, beside the text."""
    given = {"hidden_states": latents, "timestep": timestep.to(latents.dtype), **branch}
    if backbone.configs["transformer"].guidance_embeds:
        given["guidance"] = latents.new_full((len(latents),), backbone.options.embedded_guidance) * 1000.0
    return denoiser(**given, return_dict=False)[0]


def _prepare(backbone: Any) -> None:
    if backbone.options.vae_tiling:
        backbone.vae.enable_tiling()


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    transformer, vae = configs["transformer"], configs["vae"]
    return {
        "frames per latent frame": (vae.temporal_compression_ratio, grid.time),
        "pixels per latent cell": (vae.spatial_compression_ratio, grid.cell),
        "latent frames per patch": (transformer.patch_size_t, 1),
        "pixels per patch": (grid.cell * transformer.patch_size, grid.space),
        "channels into the transformer": (transformer.in_channels, vae.latent_channels),
        "width of the text embeddings": (transformer.text_embed_dim, configs["text_encoder"].hidden_size),
        "width of the pooled text": (transformer.pooled_projection_dim, configs["text_encoder_2"].hidden_size),
    }


class HunyuanVideo(sdk.FamilyBackbone):
    """HunyuanVideo 1.0. Its denoiser predicts the velocity ``noise - clean`` of a flow with a constant shift.

    The published network is distilled: it is told a guidance scale, and needs no second branch.
    """

    Options = HunyuanVideoOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    family = sdk.Family(
        title="HunyuanVideo 1.0 text-to-video",
        pipeline="HunyuanVideoPipeline",
        hub=HUB,
        video=Video(129, 720, 1280, 24.0),
        grid=sdk.Grid(time=4, time_offset=1, space=16, cell=8),
        modules={
            "transformer": "diffusers.HunyuanVideoTransformer3DModel",
            "text_encoder": "transformers.LlamaModel",
            "text_encoder_2": "transformers.CLIPTextModel",
            "vae": "diffusers.AutoencoderKLHunyuanVideo",
        },
        tokenizers={"tokenizer": "AutoTokenizer", "tokenizer_2": "CLIPTokenizer"},
        encode=sdk.pipeline_encode("encoder_hidden_states", "pooled_projections", "encoder_attention_mask"),
        decoder=sdk.WholeClip(sdk.by_factor),
        schedule=sdk.even_flow_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        prepare=_prepare,
        published={HUB: Path(__file__).parent / "published" / "hunyuan-video"},
    )
