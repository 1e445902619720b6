"""Clips: those of Open-Sora, and clear words about impossible ones."""

import pytest
from pydantic import ValidationError

from vader import Video
from vader_opensora import video
from vader_opensora.backbone import OpenSora, OpenSoraOptions


def resolve(requested=(), **options):
    return OpenSora.resolve_video(OpenSoraOptions(**options), dict(requested))


def test_sizes_are_the_reference_s(golden):
    listed = golden("opensora_t5_text_a").json["inference_utils"]["image_sizes"]
    found = {f"{name} {ratio}": list(size) for name, row in video.SIZES.items() for ratio, size in row.items()}
    assert found == listed


def test_default_clip():
    assert resolve() == Video(51, 240, 426, 24.0)


@pytest.mark.parametrize(("length", "frames"), [("2s", 51), ("4s", 102), ("8s", 204), ("16s", 408), (1, 1), (20, 20)])
def test_lengths(length, frames):
    assert resolve(length=length, resolution="360p", aspect_ratio="3:4") == Video(frames, 416, 554, 24.0)


def test_the_video_section_wins():
    asked = {"frames": 17, "height": 64, "width": 96, "fps": 8.0}
    assert resolve(asked, resolution="720p", length="16s") == Video(17, 64, 96, 8.0)
    assert resolve({"height": 360, "width": 640}) == Video(51, 360, 640, 24.0)


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ({"height": 240}, "height 240 is set alone"),
        ({"width": 426}, "width 426 is set alone"),
        ({"height": 250, "width": 426}, "height 250 is not a multiple of 8; the nearest are 248 and 256; width 426"),
        ({"height": 250, "width": 424}, r"comes nearest is 240x426 \(240p 9:16\)"),
        ({"height": 5, "width": 64}, "height 5 is not a multiple of 8; the nearest are 8"),
    ],
)
def test_impossible_sizes(requested, message):
    with pytest.raises(ValueError, match=message):
        resolve(requested)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": "1080p"}, "'144p', '240p', '360p', '480p' or '720p'"),
        ({"aspect_ratio": "21:9"}, "'9:16', '16:9', '1:1', '3:4' or '4:3'"),
        ({"length": "3s"}, "'2s', '4s', '8s' or '16s'"),
        ({"length": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValidationError, match=message):
        OpenSoraOptions(**options)
