"""What the documentation says of the distance to CLIP's own processor, which resizes with PIL."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from vader_rewards import pixels


@pytest.mark.parametrize(("binary", "most", "mean"), [(False, 12.0, 0.35), (True, 24.0, 2.8)])
def test_the_distance_to_the_processor_is_what_is_said(binary: bool, most: float, mean: float) -> None:
    noise = torch.rand(3, 320, 576, generator=torch.Generator().manual_seed(0))
    frame = (noise > 0.5).float() if binary else (noise * 255).round() / 255
    picture = Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
    theirs = CLIPImageProcessor()(picture, return_tensors="pt", do_normalize=False)["pixel_values"][0]
    away = (theirs - pixels.crop_of_short_side(frame[None], 224)[0]).abs() * 255
    assert 1.0 < float(away.max()) < most
    assert float(away.mean()) < mean
