"""Loading takes little more memory than the weights: growth of anonymous memory in a process of its own."""

import subprocess
import sys

import pytest
import torch

from vader_videocrafter import tiny
from vader_videocrafter.layout import Layout, TextLayout, UNetLayout, VAELayout

SIZES = Layout(
    UNetLayout(4, (128, 256, 256), (True, True, False), 1, 32, 64, True, True, None),
    VAELayout(4, (32, 64), 1),
    TextLayout(64, 77, 49408, 2),
)
MEASURE = """
import sys, gc, torch
from pathlib import Path
from dataclasses import replace
from vader_videocrafter import weights

torch.set_num_threads(1)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def load(path, dtype):
    return weights.load(Path(path), "it", torch.device("cpu"), dtype, torch.device("cpu"))

def size(parts):
    return sum(p.nbytes for m in (parts.unet, parts.vae, parts.text_encoder) for p in m.parameters())

path, dtype, warm_up = sys.argv[1], getattr(torch, sys.argv[2]), sys.argv[3]
load(warm_up, dtype)  # what a first load imports and sets up is not weights
gc.collect()
opened, seen, before = weights.open_checkpoint, [], anonymous()

def watched(path, name):
    stored = opened(path, name)

    def read(key):
        seen.append(anonymous() - before)
        return stored.read(key)

    return replace(stored, read=read)

weights.open_checkpoint = watched
parts = load(path, dtype)
seen.append(anonymous() - before)
print(max(seen), size(parts), len(seen))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of 130 MB in float32, large against what a process needs besides."""
    file = tmp_path_factory.mktemp("large") / "model.ckpt"
    torch.save({"state_dict": tiny.state_dict(SIZES, 0, "512-v2")}, file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["published", "converted"])
def test_peak_is_below_1_2_times_the_weights(large, tiny_file, converted, tmp_path, kind, dtype):
    file = large if kind == "published" else converted(large, tmp_path / "model.safetensors", dtype)
    command = [sys.executable, "-c", MEASURE, str(file), dtype, str(tiny_file())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    peak, weights, reads = map(int, result.stdout.split())
    assert weights > 5e7
    assert reads > 500
    assert peak < 1.2 * weights
