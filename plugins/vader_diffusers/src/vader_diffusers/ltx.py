"""LTX-Video 0.9 text-to-video (HaCohen et al. 2024, arXiv 2501.00103)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Video, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "Lightricks/LTX-Video"


class LTXOptions(sdk.FamilyOptions):
    """Options of :class:`LTX`."""

    weights: str = sdk.published_as(HUB, "an LTX-Video 0.9 model")
    max_sequence_length: int = Field(128, ge=1, description="Tokens of a prompt; longer ones are cut, shorter padded.")
    guidance_rescale: float = Field(0.0, ge=0, le=1, description="Draws the guided spread to the conditional one.")
    decode_timestep: float = Field(0.0, ge=0, le=1, description="What a decoder that takes a timestep is told.")
    decode_noise_scale: float | None = Field(None, ge=0, le=1, description="Noise in its input. Null: decode_timestep.")


def _predict(backbone: Any, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Mapping[str, Any]) -> Any:
    """The transformer takes tokens, and how far apart they are in seconds and pixels."""
    grid, pipeline, (frames, height, width) = backbone.family.grid, backbone.pipeline, latents.shape[2:]
    steps = (grid.time / (backbone.video.fps or backbone.family.video.fps), grid.cell, grid.cell)
    size = {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": steps}
    tokens = pipeline._pack_latents(latents)
    output = denoiser(hidden_states=tokens, timestep=timestep, **branch, **size, return_dict=False)[0]
    return pipeline._unpack_latents(output, frames, height, width)


def _decode(backbone: Any, latents: Tensor) -> Any:
    """Noise that a decoder takes or draws is the same in every call."""
    import torch

    vae, said, timestep = backbone.vae, backbone.options, None
    statistics = vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    scaled = backbone.pipeline._denormalize_latents(latents, *statistics).to(vae.dtype)
    with torch.random.fork_rng(devices=[latents.device] if latents.is_cuda else []):
        torch.manual_seed(0)
        if vae.config.timestep_conditioning:
            scale = said.decode_timestep if said.decode_noise_scale is None else said.decode_noise_scale
            scaled = (1 - scale) * scaled + scale * torch.randn(scaled[:1].shape).to(scaled)
            timestep = scaled.new_full((len(scaled),), said.decode_timestep)
        return sdk.decode_whole(vae, scaled, timestep)


def _check(configs: Mapping[str, Any], grid: sdk.Grid) -> dict[str, tuple[Any, Any]]:
    transformer, vae = configs["transformer"], configs["vae"]
    halved = 2 ** sum(map(bool, vae.spatio_temporal_scaling))
    return {
        "frames per latent frame": (vae.temporal_compression_ratio or vae.patch_size_t * halved, grid.time),
        "pixels per latent cell": (vae.spatial_compression_ratio or vae.patch_size * halved, grid.cell),
        "latent cells per token": (transformer.patch_size * transformer.patch_size_t, 1),
        "channels into the transformer": (transformer.in_channels, vae.latent_channels),
        "width of the text embeddings": (transformer.caption_channels, configs["text_encoder"].d_model),
    }


class LTX(sdk.FamilyBackbone):
    """LTX-Video 0.9. Its denoiser predicts the velocity ``noise - clean`` of a flow shifted by the clip's size."""

    Options = LTXOptions
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    family = sdk.Family(
        title="LTX-Video 0.9",
        pipeline="LTXPipeline",
        hub=HUB,
        video=Video(161, 512, 704, 25.0),
        grid=sdk.Grid(time=8, time_offset=1, space=32, cell=32),
        modules={
            "transformer": "diffusers.LTXVideoTransformer3DModel",
            "text_encoder": "transformers.T5EncoderModel",
            "vae": "diffusers.AutoencoderKLLTXVideo",
        },
        encode=sdk.pipeline_encode("encoder_hidden_states", "encoder_attention_mask"),
        decoder=sdk.WholeClip(decode=_decode),
        schedule=sdk.even_flow_schedule,
        channels=lambda configs: configs["vae"].latent_channels,
        predict=_predict,
        check=_check,
        prepare=sdk.shift_by_size,
        published={HUB: Path(__file__).parent / "published" / "ltx-video-0.9"},
    )

    def combine(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance, rescaled (Lin et al. 2023, arXiv 2305.08891, section 3.4)."""
        from diffusers.pipelines.ltx.pipeline_ltx import rescale_noise_cfg

        guided = unconditional + scale * (conditional - unconditional)
        amount = self.options.guidance_rescale  # type: ignore[attr-defined]
        return rescale_noise_cfg(guided, conditional, amount) if amount > 0 else guided
