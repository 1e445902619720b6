"""Wan 2.1 text-to-video (Wan et al. 2025, arXiv 2503.20314)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vader import Video, sdk
from vader_diffusers import layer_names, wan_parts

HUB, HUB_14B = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"
_PUBLISHED = Path(__file__).parent / "published"


class WanOptions(wan_parts.WanOptions):
    """Options of :class:`Wan`."""

    weights: str = sdk.published_as(HUB, "a Wan 2.1 text-to-video model")


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
        modules=wan_parts.MODULES,
        encode=sdk.pipeline_encode("encoder_hidden_states"),
        decoder=sdk.CausalPrefix(),
        encoder=sdk.encoded_by_statistics,
        layers=sdk.Layers(),
        schedule=sdk.flow_schedule,
        channels=lambda configs: configs["vae"].z_dim,
        check=wan_parts.fits,
        refuse=wan_parts.only("2.1"),
        published={HUB: _PUBLISHED / "wan2.1-1.3b", HUB_14B: _PUBLISHED / "wan2.1-14b"},
    )
