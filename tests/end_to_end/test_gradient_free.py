"""Rewards without a gradient train the embedded model under the gradient-free methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import vader

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shapes_ddpo.yaml"
SMALL = [
    "train.steps=2",
    "train.batch_size=4",
    "validation.clips=0",
]
METHODS: dict[str, list[str]] = {
    "ddpo": ["method.options.group_size=4"],
    "dpo": ["method={name: dpo, options: {inner_epochs: 1}}", "sampler.eta=0"],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reward", ["shapes_accuracy", "jpeg_size"])
def test_a_reward_without_a_gradient_moves_the_adapter(method: str, reward: str, tmp_path: Path) -> None:
    """Where clips of a prompt differ in their reward, which true JPEG sizes always do."""
    overrides = [*SMALL, *METHODS[method], f"rewards=[{reward}]", f"output={tmp_path / 'run'}"]
    result = vader.train(str(EXAMPLE), overrides)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(f"score/{reward}" in line for line in lines)
    moved = any(
        tensor.abs().sum() > 0
        for name, tensor in load_file(result.folder / "adapter" / "adapter_model.safetensors").items()
        if "lora_B" in name
    )
    differs = reward == "jpeg_size" or any(line["grad_norm"] > 0 for line in lines)
    assert moved is differs


@pytest.mark.parametrize("reward", ["shapes_accuracy", "jpeg_size"])
def test_the_reward_gradient_refuses_it(reward: str) -> None:
    with pytest.raises(vader.SpecError, match=f"{reward}' is not differentiable"):
        vader.check(str(EXAMPLE), ["method=reward_gradient", f"rewards=[{reward}]"])
