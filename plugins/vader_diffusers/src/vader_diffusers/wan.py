"""Wan 2.1 text-to-video (Wan et al. 2025, arXiv 2503.20314)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from vader import Video, sdk
from vader_diffusers import layer_names

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


def _refuse(index: Mapping[str, Any]) -> str | None:
    signs = {
        "transformer_2": any(index.get("transformer_2") or ()),
        "boundary_ratio": index.get("boundary_ratio") is not None,
        "expand_timesteps": bool(index.get("expand_timesteps")),
    }
    found = ", ".join(sign for sign, present in signs.items() if present)
    return f"a Wan 2.2 pipeline ({found} in model_index.json), whose denoiser is another" if found else None


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    vae, transformer = configs["vae"], configs["transformer"]
    cell, patch = 2 ** (len(vae.dim_mult) - 1) * int(vae.patch_size or 1), transformer.patch_size
    return {
        "frames per latent frame": (2 ** sum(map(bool, vae.temperal_downsample)), grid.time),
        "latent frames per patch": (patch[0], 1),
        "pixels per patch in height": (cell * patch[1], grid.space),
        "pixels per patch in width": (cell * patch[2], grid.space),
        "channels into the transformer": (transformer.in_channels, vae.z_dim),
        "channels out of the transformer": (transformer.out_channels or transformer.in_channels, vae.z_dim),
        "width of the text embeddings": (transformer.text_dim, configs["text_encoder"].d_model),
    }


class WanOptions(sdk.FamilyOptions):
    """Options of :class:`Wan`."""

    weights: str = sdk.published_as(HUB, "a Wan 2.1 text-to-video model")
    max_sequence_length: int = Field(512, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")


class Wan(sdk.FamilyBackbone):
    """Wan 2.1 text-to-video. Its denoiser predicts the velocity ``noise - clean`` of a flow with a constant shift."""

    Options = WanOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    published_layers: ClassVar[dict[str, str]] = layer_names.WAN
    family = sdk.Family(
        title="Wan 2.1 text-to-video",
        pipeline="WanPipeline",
        hub=HUB,
        video=Video(81, 480, 832, 16.0),
        grid=sdk.Grid(time=4, time_offset=1, space=16, cell=8),
        modules={
            "transformer": "diffusers.WanTransformer3DModel",
            "text_encoder": "transformers.UMT5EncoderModel",
            "vae": "diffusers.AutoencoderKLWan",
        },
        encode=sdk.pipeline_encode("encoder_hidden_states"),
        decoder=sdk.CausalPrefix(),
        schedule=sdk.flow_schedule,
        channels=lambda configs: configs["vae"].z_dim,
        check=_check,
        refuse=_refuse,
        published=Path(__file__).parent / "published" / "wan2.1-1.3b",
    )
