"""Offline, one thread; tiny networks of the real classes, and the golden numbers of the reference."""

import json
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import pytest
import torch
from safetensors.torch import load_file

from vader import Prompt, Runtime

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"
PUBLISHED = ROOT.parent / "shared" / "weights"

torch.set_num_threads(1)


@pytest.fixture
def cpu():
    """Float32 on the CPU."""
    return Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture
def exact():
    """Float64 on the CPU, for finite differences."""
    return Runtime(torch.device("cpu"), torch.float64)


@pytest.fixture(scope="session")
def golden():
    """Tensors (float32, whole numbers as they are) and facts of ``tests/golden/rewards_a``."""
    tensors = load_file(GOLDEN / "rewards_a.safetensors")
    facts = json.loads((GOLDEN / "rewards_a.json").read_text(encoding="utf-8"))
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, facts


@pytest.fixture(scope="session")
def published():
    """The folder of the published heads; tests that need them are skipped where it is absent."""
    if not PUBLISHED.is_dir():
        pytest.skip("the published reward heads are not here; they are no part of the repository")
    return PUBLISHED


@pytest.fixture
def prompts():
    """Two prompts, those of the golden numbers."""
    return [Prompt("a raccoon plays guitar"), Prompt("snow on a hill")]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Tiny networks for every reward; tests do not change them."""
    from vader_rewards.tiny import write

    return write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """Writes a picture of random colours, the same for the same number; its path."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")

    def write(seed, size=(40, 56)):
        values = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
        grown = torch.nn.functional.interpolate(values[None], size, mode="bilinear")[0]
        path = folder / f"{seed}.png"
        Image.fromarray((grown * 255).byte().permute(1, 2, 0).numpy()).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def options(tiny):
    """Options of each reward on tiny weights, by the reward's name."""
    base = {"base": str(tiny / "qwen2_vl")}
    clip, head = str(tiny / "clip"), str(tiny / "head.safetensors")
    return {
        "aesthetic": {"weights": clip, "head": head},
        "compression": {"weights": clip, "head": head},
        "weather": {"weights": clip, "head": head},
        "hps": {"weights": str(tiny / "open_clip")},
        "clip_text": {"model": str(tiny / "open_clip")},
        "pickscore": {"weights": clip, "tokenizer": clip},
        "detection": {"weights": str(tiny / "yolos"), "object": "book"},
        "action": {"weights": str(tiny / "videomae"), "action": "jogging"},
        "flow": {"window": 3},
        "motion": {"cell": 2},
        "temporal_consistency": {"weights": clip},
        "vjepa": {"weights": str(tiny / "vjepa"), "window": 4, "stride": 2},
        "imagenet": {"label": "goldfish", "size": 64},
        "ocr_text": {"text": "CAT"},
        "nsfw": {},
        "jpeg_size": {},
        "imagereward": {"weights": str(tiny / "image_reward")},
        "videoreward": {"weights": str(tiny / "video_reward"), "min_pixels": 784},
        "vlm_question": {"weights": str(tiny / "qwen2_vl"), "min_pixels": 784, "max_pixels": 3136},
        "video_text": {"weights": str(tiny / "xclip")},
        "image_fidelity": {"weights": str(tiny / "dinov2")},
        "hpsv3": {**base, "weights": str(tiny / "hpsv3"), "min_pixels": 784, "max_pixels": 3136},
    }
