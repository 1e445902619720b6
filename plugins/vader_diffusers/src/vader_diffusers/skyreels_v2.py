"""SkyReels-V2 text-to-video (Chen et al. 2025, arXiv 2504.13074): its own transformer, and the autoencoder of Wan."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vader import Video, sdk
from vader_diffusers import layer_names, wan_parts

HUB = "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers"


class SkyReelsV2Options(wan_parts.WanOptions):
    """Options of :class:`SkyReelsV2`."""

    weights: str = sdk.published_as(HUB, "a SkyReels-V2 text-to-video model")


class SkyReelsV2(sdk.FamilyBackbone):
    """SkyReels-V2 text-to-video. Its denoiser predicts the velocity ``noise - clean`` of a flow with a constant shift.

    The checkpoint's scheduler says shift 1; its authors advise 8 for text-to-video (``sampler.options``).
    """

    Options = SkyReelsV2Options
    predictions: ClassVar[tuple[sdk.Prediction, ...]] = ("flow",)
    default_sampler: ClassVar[str] = "flow_euler"
    published_layers: ClassVar[dict[str, str]] = layer_names.WAN
    family = sdk.Family(
        title="SkyReels-V2 text-to-video",
        pipeline="SkyReelsV2Pipeline",
        hub=HUB,
        video=Video(97, 544, 960, 24.0),
        grid=sdk.Grid(time=4, time_offset=1, space=16, cell=8),
        modules={**wan_parts.MODULES, "transformer": "diffusers.SkyReelsV2Transformer3DModel"},
        encode=sdk.pipeline_encode("encoder_hidden_states"),
        decoder=sdk.CausalPrefix(),
        schedule=sdk.flow_schedule,
        channels=lambda configs: configs["vae"].z_dim,
        check=wan_parts.fits,
        published={HUB: Path(__file__).parent / "published" / "skyreels-v2-t2v-14b-540p"},
    )
