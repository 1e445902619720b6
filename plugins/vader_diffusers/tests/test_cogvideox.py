"""CogVideoX gives the numbers of diffusers' own pipeline: latents, frames and the gradients of adapters."""

import pytest
from plugins.vader_diffusers.tests.parity import Parity, loaded, pipeline_of

from vader import Video
from vader_diffusers import tiny
from vader_diffusers.cogvideox import CogVideoX

TOKENS = 32
KINDS = {"2b": {}, "5b": {"use_rotary_positional_embeddings": True}}


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """Compares a task with diffusers' pipeline, of the 2B model's kind and of the 5B's."""
    sizes = {"max_text_seq_length": TOKENS, **KINDS[request.param]}
    folder = tiny.write(tmp_path_factory.mktemp("cogvideox") / "tiny", 0, "cogvideox", **sizes)
    pipeline = pipeline_of("CogVideoXPipeline", folder)

    def made(video, scale, dynamic=False, **sampler):
        backbone = loaded(CogVideoX, folder, max_sequence_length=TOKENS, dynamic_guidance=dynamic)
        call = {"use_dynamic_cfg": dynamic, "max_sequence_length": TOKENS}
        turn = {"pack": lambda x: x.transpose(1, 2), "unpack": lambda x: x.transpose(1, 2)}
        return Parity(backbone, pipeline, video, scale, steps=5, call=call, **turn, **sampler)

    return made


@pytest.mark.parametrize(("scale", "dynamic"), [(0.5, True), (1.0, False), (1.0, True), (6.0, False), (6.0, True)])
@pytest.mark.parametrize("video", [Video(9, 32, 32), Video(1, 48, 32), Video(17, 16, 48)], ids=str)
def test_latents_and_frames_equal_the_pipeline(made, video, scale, dynamic):
    made(video, scale, dynamic).assert_same_clips()


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_adapter_gradients_equal_the_pipeline(made, scale, tmp_path):
    made(Video(9, 32, 32), scale).assert_same_gradients(tmp_path / "adapter")


def test_its_own_scheduler_gives_the_same_clips(made):
    """Through the sampler that takes what the checkpoint ships, `CogVideoXDDIMScheduler`."""
    made(Video(9, 32, 32), 6.0, sampler="pipeline").assert_same_clips()
