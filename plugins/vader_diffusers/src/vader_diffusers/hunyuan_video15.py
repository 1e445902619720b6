"""HunyuanVideo 1.5 text-to-video (Tencent 2025, arXiv 2511.18870)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vader import Video, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v"


class HunyuanVideo15Options(sdk.FamilyOptions, sdk.RewardDecoderOptions):
    """Options of :class:`HunyuanVideo15`."""

    weights: str = sdk.published_as(HUB, "a HunyuanVideo 1.5 text-to-video model")


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer's input is latents, condition and mask, and image embeddings; without an image the rest is 0."""
    import torch

    size = backbone.pipeline.vision_num_semantic_tokens, backbone.configs["transformer"].image_embed_dim
    image = latents.new_zeros(len(latents), *size)
    whole = torch.cat([latents, torch.zeros_like(latents), torch.zeros_like(latents[:, :1])], dim=1)
    given = {"hidden_states": whole, "timestep": timestep.to(latents.dtype), "image_embeds": image, **branch}
    return denoiser(**given, return_dict=False)[0]


def _mask(frames: int, cells: int, dtype: Any, device: Any, batch_size: int | None = None) -> Tensor:
    """What a decoder's attention adds: a frame sees itself and earlier ones. diffusers' loop over cells is slow."""
    import torch

    frame = torch.arange(frames, device=device).repeat_interleave(cells)
    seen = torch.zeros(1, len(frame), len(frame), dtype=dtype, device=device)
    return seen.masked_fill(frame[None, :] > frame[:, None], float("-inf"))


def _prepare(backbone: Any) -> None:
    for module in backbone.vae.modules():
        if hasattr(module, "prepare_causal_attention_mask"):
            module.prepare_causal_attention_mask = _mask


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    transformer, vae = configs["transformer"], configs["vae"]
    return {
        "frames per latent frame": (vae.temporal_compression_ratio, grid.time),
        "pixels per latent cell": (vae.spatial_compression_ratio, grid.cell),
        "latent cells per patch": (transformer.patch_size * transformer.patch_size_t, 1),
        "channels into the transformer": (transformer.in_channels, 2 * vae.latent_channels + 1),
        "channels out of the transformer": (transformer.out_channels, vae.latent_channels),
        "width of the text embeddings": (transformer.text_embed_dim, configs["text_encoder"].hidden_size),
        "width of the second text embeddings": (transformer.text_embed_2_dim, configs["text_encoder_2"].d_model),
    }


class HunyuanVideo15(sdk.FamilyBackbone):
    """HunyuanVideo 1.5. Its denoiser predicts the velocity ``noise - clean`` of a flow with a constant shift.

    Texts are encoded twice: whole by a language model, and what stands in quotation marks letter by letter.
    """

    Options = HunyuanVideo15Options
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    guides_below_1: ClassVar[bool] = True  # its guider is off at 1 alone
    default_sampler: ClassVar[str] = "flow_euler"
    family = sdk.Family(
        title="HunyuanVideo 1.5 text-to-video",
        pipeline="HunyuanVideo15Pipeline",
        hub=HUB,
        video=Video(121, 480, 848, 24.0),
        grid=sdk.Grid(time=4, time_offset=1, space=16, cell=16),
        modules={
            "transformer": "diffusers.HunyuanVideo15Transformer3DModel",
            "text_encoder": "transformers.Qwen2_5_VLTextModel",
            "text_encoder_2": "transformers.T5EncoderModel",
            "vae": "diffusers.AutoencoderKLHunyuanVideo15",
        },
        tokenizers={"tokenizer": "AutoTokenizer", "tokenizer_2": "ByT5Tokenizer"},
        encode=sdk.pipeline_encode(
            *("encoder_hidden_states", "encoder_attention_mask"),
            *("encoder_hidden_states_2", "encoder_attention_mask_2"),
        ),
        decoder=sdk.CausalPrefix(sdk.by_factor),
        schedule=sdk.even_flow_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        prepare=_prepare,
        text_tokens=1000,  # of the pipeline, which has no argument for it
        published={HUB: Path(__file__).parent / "published" / "hunyuan-video-1.5-480p"},
    )
