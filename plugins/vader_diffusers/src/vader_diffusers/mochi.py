"""Mochi 1 preview text-to-video (Genmo 2024, https://github.com/genmoai/mochi)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Video, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "genmo/mochi-1-preview"


class MochiOptions(sdk.FamilyOptions):
    """Options of :class:`Mochi`."""

    weights: str = sdk.published_as(HUB, "a Mochi 1 model")
    max_sequence_length: int = Field(256, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")


def _sigmas(steps: int, shift: float) -> Tensor:
    """Linear in the first half, quadratic in the second. Source: diffusers' pipeline, threshold included."""
    import torch
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    whole = linear_quadratic_schedule(steps, 0.025) if steps > 1 else [1.0]
    return torch.tensor(whole, dtype=torch.float64)


def _schedule(config: Mapping[str, Any], name: str, fix: str, options: Any) -> Any:
    return replace(sdk.flow_schedule(config, name, fix, options), sigmas=_sigmas)


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer's time runs from noise, 0, to clean, and it predicts the velocity towards the clean latents."""
    whole = backbone.schedule.train_timesteps
    time = ((1 - timestep / whole) * whole).to(latents.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*autocast.*target dtype is not supported")  # diffusers means: switch it off
        return -denoiser(hidden_states=latents, timestep=time, **branch, return_dict=False)[0]


def _unscaled(vae: Any, latents: Tensor) -> Any:
    """Latents as the autoencoder wants them. Source: diffusers' ``MochiPipeline.__call__``."""
    mean, std = (
        latents.new_tensor(said).view(1, -1, 1, 1, 1) for said in (vae.config.latents_mean, vae.config.latents_std)
    )
    return (latents * std / vae.config.scaling_factor + mean).to(vae.dtype)


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    import math

    transformer, vae = configs["transformer"], configs["vae"]
    return {
        "frames per latent frame": (math.prod(vae.temporal_expansions), grid.time),
        "pixels per latent cell": (math.prod(vae.spatial_expansions), grid.cell),
        "pixels per patch": (grid.cell * transformer.patch_size, grid.space),
        "channels into the transformer": (transformer.in_channels, vae.latent_channels),
        "width of the text embeddings": (transformer.text_embed_dim, configs["text_encoder"].d_model),
    }


class Mochi(sdk.FamilyBackbone):
    """Mochi 1. Here too sigma runs from 1 to 0 and the prediction is ``noise - clean``; guidance is float32."""

    Options = MochiOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    family = sdk.Family(
        title="Mochi 1 text-to-video",
        pipeline="MochiPipeline",
        hub=HUB,
        video=Video(85, 480, 848, 30.0),
        grid=sdk.Grid(time=6, time_offset=1, space=16, cell=8),
        modules={
            "transformer": "diffusers.MochiTransformer3DModel",
            "text_encoder": "transformers.T5EncoderModel",
            "vae": "diffusers.AutoencoderKLMochi",
        },
        encode=sdk.pipeline_encode("encoder_hidden_states", "encoder_attention_mask"),
        decoder=sdk.CausalPrefix(_unscaled),
        schedule=_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        published={HUB: Path(__file__).parent / "published" / "mochi-1-preview"},
    )
