"""Golden numbers, and one tiny model for all tests of the plugin."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vader import Runtime
from vader_opensora import tiny
from vader_opensora.backbone import OpenSora, OpenSoraOptions

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden"


class Golden:
    """A golden set: ``json`` and float32 tensors."""

    def __init__(self, name):
        self.json = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        path = GOLDEN / f"{name}.safetensors"
        tensors = load_file(path) if path.is_file() else {}
        self.tensors = {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}

    def __getitem__(self, key):
        return self.tensors[key]

    def under(self, prefix):
        """Tensors whose names begin with ``prefix``, which is cut off."""
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="session")
def golden():
    """Reads a golden set by name."""
    return Golden


@pytest.fixture(scope="session")
def lora_file():
    """A file that VADER-Open-Sora has saved."""
    return GOLDEN / "lora_ckpt_opensora_a.pt"


@pytest.fixture(scope="session")
def close():
    """Equal to 1e-4, relative to the largest value."""

    def close(actual, expected, tolerance=1e-4):
        assert actual.shape == expected.shape
        error = ((actual - expected).abs().max() / expected.abs().max()).item()
        assert error <= tolerance, f"off by {error:.2e} of the largest value"

    return close


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model; tests do not change it."""
    return tiny.write(tmp_path_factory.mktemp("opensora") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    """A tiny model of the test's own."""
    return shutil.copytree(folder, tmp_path / "model")


@pytest.fixture(scope="session")
def load(folder):
    """Loads the backbone."""

    def load(root=folder, dtype=torch.float32, video=None, **options):
        return OpenSora(OpenSoraOptions(weights=str(root), **options), Runtime(torch.device("cpu"), dtype), video)

    return load
