"""CogVideoX image-to-video gives the numbers of diffusers' own pipeline."""

import pytest
import torch
from plugins.vader_diffusers.tests.parity import Parity, loaded, pipeline_of

from vader import Video, WeightsError
from vader_diffusers import tiny
from vader_diffusers.cogvideox_i2v import CogVideoXI2V

TOKENS = 32
ANY, FIXED = {"max_text_seq_length": TOKENS}, {"max_text_seq_length": TOKENS, "use_learned_positional_embeddings": True}


def parity(folder, pictures, video, scale):
    pipeline = pipeline_of("CogVideoXImageToVideoPipeline", folder)
    encode = pipeline.vae.encode
    generator = torch.Generator()
    pipeline.vae.encode = lambda pixels: (generator.manual_seed(0), encode(pixels))[1]
    call = {"max_sequence_length": TOKENS, "generator": generator}
    turn = {"pack": lambda x: x.transpose(1, 2), "unpack": lambda x: x.transpose(1, 2)}
    backbone = loaded(CogVideoXI2V, folder, video=video, max_sequence_length=TOKENS)
    return Parity(backbone, pipeline, video, scale, prompts=pictures, call=call, **turn)


@pytest.fixture(scope="module", params=[ANY, FIXED], ids=["any size", "one size"])
def folder(request, tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("cogvideox_i2v") / "tiny", 0, "cogvideox_i2v", **request.param)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_clips_equal_the_pipeline(folder, pictures, scale):
    parity(folder, pictures, Video(9, 64, 64), scale).assert_same_clips()


def test_another_size_and_its_gradients(tmp_path, pictures):
    task = parity(tiny.write(tmp_path / "tiny", 0, "cogvideox_i2v", **ANY), pictures, Video(17, 16, 48), 6.0)
    task.assert_same_clips()
    task.assert_same_gradients(tmp_path / "adapter")


def test_learned_positions_fit_one_size(tmp_path):
    folder = tiny.write(tmp_path / "tiny", 0, "cogvideox_i2v", **FIXED)
    with pytest.raises(WeightsError, match="clip: 9 frames of 32 x 64, expected 9 frames of 64 x 64"):
        loaded(CogVideoXI2V, folder, video=Video(9, 32, 64))
