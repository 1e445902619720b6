"""Golden numbers, checkpoints made of them in the published format, and tiny random ones."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vader import Runtime
from vader.resolve.components import ResolvedComponent
from vader.resolve.conversion import conversion_of
from vader.weights.conversion import write
from vader_videocrafter import layout, tiny
from vader_videocrafter.backbone import VideoCrafter2, VideoCrafter2Options

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"
CONFIGURATIONS = ("512_v2.0", "512_v1.0", "1024_v1.0")


@functools.cache
def read_golden(name):
    """The tensors of a golden set, float32 where they are not whole numbers."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


@functools.cache
def read_shapes(configuration):
    keys = json.loads((GOLDEN / f"videocrafter_ckpt_keys_inference_{configuration}.json").read_text())["keys"]
    return {key: tuple(shape) for key, (shape, _) in keys.items()}


@pytest.fixture(scope="session")
def golden():
    """``golden(name)``: the tensors of ``tests/golden/videocrafter_NAME_a.safetensors``."""
    return lambda name: read_golden(f"videocrafter_{name}_a")


@pytest.fixture(scope="session")
def shapes():
    """``shapes("t2v_512_v2.0")``: the shapes of a real checkpoint's tensors, by name."""
    return read_shapes


@pytest.fixture(scope="session")
def adapter_file():
    """A golden adapter in VADER's published format, for the golden network."""
    return GOLDEN / "lora_ckpt_videocrafter_a.pt"


@pytest.fixture(scope="session")
def golden_file(tmp_path_factory):
    """The golden denoiser and first stage as a published checkpoint, with a random text encoder."""
    tensors = read_golden("videocrafter_ddim_a")
    prefixes = {"sd.": layout.UNET, "vae.": layout.VAE, "buf.": ""}
    state = {
        new + key.removeprefix(old): tensor
        for old, new in prefixes.items()
        for key, tensor in tensors.items()
        if key.startswith(old)
    }
    text = tiny.state_dict(tiny.layout("512-v2"), 0, "512-v2")
    state.update({key: tensor for key, tensor in text.items() if key.startswith(layout.TEXT)})
    file = tmp_path_factory.mktemp("golden") / "model.ckpt"
    torch.save({"state_dict": state}, file)
    return file


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """``tiny_file(kind)``: a tiny random checkpoint; tests do not change it."""
    folder = tmp_path_factory.mktemp("tiny")

    @functools.cache
    def write(kind="512-v2"):
        return tiny.write(folder / kind, kind=kind)

    return write


@pytest.fixture(scope="session")
def converted():
    """``converted(source, target, dtype)``: a checkpoint as safetensors."""

    def convert(source, target, dtype=None):
        part = ResolvedComponent("backbone", "videocrafter2", VideoCrafter2, VideoCrafter2Options(weights=str(source)))
        write(conversion_of(part, dtype), target, lambda *_: None)
        return target

    return convert


@pytest.fixture(scope="session")
def load(tiny_file):
    """Loads the backbone, a tiny one unless told otherwise."""

    def load(weights=None, dtype=torch.float32, video=None, **options):
        made = VideoCrafter2Options(weights=str(weights or tiny_file()), **options)
        return VideoCrafter2(made, Runtime(torch.device("cpu"), dtype), video)

    return load


@pytest.fixture(scope="session")
def backbone(load):
    """The tiny backbone in float32; tests do not change it."""
    return load()
