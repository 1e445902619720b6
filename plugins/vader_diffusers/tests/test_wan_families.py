"""Wan 2.2 and image-to-video give the numbers of diffusers' own pipelines: latents, frames, gradients of adapters."""

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from plugins.vader_diffusers.tests.parity import PROMPTS, Parity, loaded, pipeline_of

from vader import Video
from vader.plugins import registry
from vader_diffusers import tiny

SIZES = [Video(9, 32, 64), Video(5, 96, 64)]
KINDS = {
    "wan22": ("WanPipeline", False),
    "wan_i2v": ("WanImageToVideoPipeline", True),
    "wan22_i2v": ("WanImageToVideoPipeline", True),
    "wan22_ti2v": ("WanPipeline", False),
    "wan22_ti2v with images": ("WanImageToVideoPipeline", True),
}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory, pictures):
    """Compares a task with diffusers' pipeline."""
    name, (pipeline, with_image) = request.param.partition(" ")[0], KINDS[request.param]
    folder = tiny.write(tmp_path_factory.mktemp(name) / "tiny", 0, name)
    shift = 5.0 if name == "wan22_ti2v" else 3.0
    theirs = pipeline_of(pipeline, folder, FlowMatchEulerDiscreteScheduler(shift=shift))

    def made(video, scale, **options):
        call = {"guidance_scale_2": options["guidance_scale_2"]} if options else {}
        backbone = loaded(registry.load("backbone", name), folder, video=video, **options)
        prompts = pictures if with_image else PROMPTS
        return Parity(backbone, theirs, video, scale, steps=5, prompts=prompts, call=call)

    made.experts = name in ("wan22", "wan22_i2v")
    made.held = int(name == "wan22_ti2v" and with_image)
    return made


@pytest.mark.parametrize(
    ("video", "scale"),
    [
        (SIZES[0], 5.0),
        (SIZES[1], 1.0),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in [(SIZES[0], 1.0), (SIZES[1], 5.0)]),
    ],
    ids=str,
)
def test_latents_and_frames_equal_the_pipeline(made, video, scale):
    options = {"guidance_scale_2": 3.0} if made.experts and scale > 1 else {}
    made(video, scale, **options).assert_same_clips(made.held)


@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.slow), 5.0])
def test_adapter_gradients_equal_the_pipeline(made, scale, tmp_path):
    """With two experts the window reaches across their boundary."""
    made(SIZES[0], scale).assert_same_gradients(tmp_path / "adapter", k=5 if made.experts else 3)
