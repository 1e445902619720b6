"""``vader estimate`` on every family's published configuration: minutes each, run by ``nox -s slow``."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from vader import Runtime
from vader.estimation import estimate
from vader.plugins import registry

REWARD = f"{Path(__file__).parents[3] / 'tests' / 'memory_reward.py'}:Small"
FAMILIES = sorted(
    entry.name
    for entry in importlib.metadata.entry_points(group="vader.backbones")
    if entry.dist is not None and entry.dist.name == "vader-plugin-diffusers"
)


def spec_of(name: str, folder: Path) -> dict[str, object]:
    """Default options and the family's own size; one denoising step and one frame carry gradient."""
    Image.new("RGB", (832, 480)).save(folder / "image.png")
    given = {"text": "a fox runs", **({"image": "image.png"} if name.endswith("i2v") else {})}
    prompts = folder / "prompts.jsonl"
    prompts.write_text(json.dumps(given) + "\n")
    return {
        "backbone": {"name": name, "options": {"text_encoder_offload": "cpu"}, "adapter": {"rank": 16}},
        "sampler": {"steps": 4},
        "prompts": {"name": "file", "options": {"path": str(prompts)}},
        "rewards": [{"name": REWARD, "label": "small"}],
        "gradient": {"mode": "tail", "k": 1, "recompute": True},
        "frames": {"mode": "random"},
        "train": {"mixed_precision": "bf16", "gradient_checkpointing": True, "device": "cuda"},
        "validation": {"clips": 0},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_counts_a_step_of_the_published_model(name: str, tmp_path: Path) -> None:
    kind = registry.load("backbone", name)
    built = kind.meta_init(kind.Options(), Runtime(torch.device("cpu"), torch.bfloat16), lambda module, _: module)
    own = sum(tensor.nbytes for tensor in (*built.denoiser.parameters(), *built.denoiser.buffers()))
    found = estimate(spec_of(name, tmp_path), trust_code=True)
    rows = ", ".join(f"{row} {size / 1e9:.2f}" for row, size in found.training.most.items())
    print(f"{name}: {found.total / 1e9:.1f} GB at {found.training.peak.phase}; {rows}; on the host {found.host}")
    assert found.not_counted == {}
    weights = sum(size for row, size in found.training.most.items() if row.startswith("weights: denoiser"))
    assert weights == pytest.approx(own, rel=0.01)
    assert found.training.most["decoding"] > 0
    assert found.training.most["gradient window"] > 0
    assert found.total > weights
