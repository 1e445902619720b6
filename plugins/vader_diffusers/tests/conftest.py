"""One tiny pipeline folder for all tests of the plugin."""

import shutil

import pytest
import torch
from PIL import Image
from plugins.vader_diffusers.tests.parity import PROMPTS

from vader import Prompt, Runtime, Video
from vader_diffusers import tiny
from vader_diffusers.wan import Wan, WanOptions

VIDEO = Video(9, 32, 32, 16.0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny pipeline; tests do not change it."""
    return tiny.write(tmp_path_factory.mktemp("wan") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    """A tiny pipeline of the test's own."""
    return shutil.copytree(folder, tmp_path / "pipeline")


@pytest.fixture(scope="session")
def load(folder):
    """Loads the backbone."""

    def load(weights=folder, dtype=torch.float32, kind=Wan, **options):
        backbone = kind(WanOptions(weights=str(weights), **options), Runtime(torch.device("cpu"), dtype))
        backbone.text.load()
        return backbone

    return load


@pytest.fixture(scope="session")
def wan(load):
    """The tiny backbone in float32; tests do not change it."""
    return load()


@pytest.fixture(scope="session")
def pipeline(folder):
    """diffusers' own pipeline from the same folder, with the Euler scheduler of the same shift."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    pipeline = WanPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A prompt with an image of its own for each of the prompts."""
    folder, prompts = tmp_path_factory.mktemp("pictures"), []
    for index, prompt in enumerate(PROMPTS):
        path = folder / f"{index}.png"
        gradient = Image.linear_gradient("L").rotate(90 * index).resize((70, 40))
        Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient)).save(path)
        prompts.append(Prompt(prompt.text, image=path))
    return tuple(prompts)


@pytest.fixture
def latents(wan):
    """``(1 c f h w)`` of a clip of nine frames: three latent frames."""
    return torch.randn(1, *wan.latent_shape(VIDEO), generator=torch.Generator().manual_seed(0))
