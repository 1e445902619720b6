"""What a guidance scale means at and below 1: off where the model's pipeline has it so, else both branches mixed."""

from __future__ import annotations

from typing import Any

import pytest

from vader.methods.context import guidance_scale_at
from vader.plugins import registry


class Mixes:
    """A backbone that says nothing."""


class Off:
    """As the families of diffusers."""

    guides_below_1 = False


class Grows(Off):
    """Guidance of its own at every step."""

    def guidance_scale_at(self, scale: float, timestep: float, steps: int) -> float:
        return scale + timestep


@pytest.mark.parametrize(
    ("backbone", "scale", "expected"),
    [
        *((Mixes, scale, scale) for scale in (0.0, 0.5, 1.0, 3.0)),
        *((Off, scale, max(scale, 1.0)) for scale in (0.0, 0.5, 1.0, 3.0)),
        *((Grows, scale, 1.0) for scale in (0.0, 0.5, 1.0)),
        (Grows, 3.0, 5.0),
    ],
)
def test_the_scale_of_a_step(backbone: Any, scale: float, expected: float) -> None:
    assert guidance_scale_at(backbone(), scale, 2.0, 4) == expected


def test_which_backbones_guide_below_1() -> None:
    """The pipelines of diffusers say ``guidance_scale > 1``; HunyuanVideo 1.5's guider says ``!= 1``, and so do the
    samplers of VideoCrafter and Open-Sora."""
    names = ("wan", "wan22", "cogvideox", "ltx", "mochi", "hunyuan_video", "skyreels_v2", "modelscope", "shapes")
    assert not any(registry.load("backbone", name).guides_below_1 for name in names)
    for name in ("hunyuan_video15", "videocrafter2", "opensora"):
        assert getattr(registry.load("backbone", name), "guides_below_1", True)
