"""Wan 2.2 text-to-video A14B: an expert for high noise and one for low."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vader import sdk
from vader_diffusers import wan_parts
from vader_diffusers.wan import Wan

HUB = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"


class Wan22Options(wan_parts.TwoExpertsOptions):
    """Options of :class:`Wan22`."""

    weights: str = sdk.published_as(HUB, "a Wan 2.2 A14B text-to-video model")


class Wan22(wan_parts.GuidesExperts, sdk.FamilyBackbone):
    """Wan 2.2 text-to-video A14B. The denoiser routes by timestep between two Wan transformers."""

    Options = Wan22Options
    predictions = Wan.predictions
    default_sampler = Wan.default_sampler
    experts = tuple(wan_parts.EXPERTS)
    memory_options = wan_parts.MEMORY
    published_layers = Wan.published_layers
    family = replace(
        Wan.family,
        title="Wan 2.2 A14B text-to-video",
        hub=HUB,
        modules=wan_parts.TWO,
        experts=wan_parts.EXPERTS,
        refuse=wan_parts.only("A14B"),
        published={HUB: Path(__file__).parent / "published" / "wan2.2-t2v-a14b"},
    )
