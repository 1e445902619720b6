"""Backbones load in little more memory than their weights, and train on rewards of another plugin."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.integration.memory import allocated

import vader
from vader import Runtime
from vader.plugins import registry

CPU = torch.device("cpu")
PACKAGES = {"modelscope": "vader_modelscope", "videocrafter2": "vader_videocrafter", "wan": "vader_diffusers"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tiny weights of every backbone."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, package in PACKAGES.items():
        importlib.import_module(f"{package}.tiny").write(folder / name)
    return {name: str(folder / name) for name in PACKAGES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PACKAGES)
def test_peak_is_below_1_2_times_the_weights(tiny: dict[str, str], name: str, dtype: torch.dtype) -> None:
    """By the account of torch's allocator, less the files, which it counts once they are mapped."""
    kind = registry.load("backbone", name)
    options = kind.Options(weights=tiny[name])
    kind(options, Runtime(CPU, dtype))  # tables that a first use makes are not weights
    held: list[Any] = []
    peak = allocated(lambda: held.append(kind(options, Runtime(CPU, dtype))))
    weights = sum(p.nbytes for part in ("denoiser", "text_encoder", "vae") for p in getattr(held[0], part).parameters())
    files = sum(
        file.stat().st_size for pattern in ("*.ckpt", "*/*.safetensors") for file in Path(tiny[name]).glob(pattern)
    )
    assert weights > 1e6
    assert peak - files < 1.2 * weights


def test_the_account_sees_a_second_copy() -> None:
    made: list[torch.Tensor] = []
    assert allocated(lambda: made.extend([torch.zeros(1000), torch.zeros(1000)])) >= 8000


@pytest.mark.parametrize("name", [pytest.param("modelscope", marks=pytest.mark.slow), "videocrafter2"])
def test_alignment_on_a_reward_of_another_plugin(tiny: dict[str, str], tmp_path: Path, name: str) -> None:
    """Gradient reaches the adapter from CLIP's judgement of a decoded frame; a resumed run is bit-equal."""
    from vader_rewards.tiny import write

    rewards = write(tmp_path / "rewards")
    weights, head = str(rewards / "clip"), str(rewards / "head.safetensors")
    spec = {
        "backbone": {"name": name, "options": {"weights": tiny[name]}, "adapter": {"rank": 2}},
        "video": {"frames": 2, "height": 16, "width": 16},
        "sampler": {"steps": 2, "guidance_scale": 3.0},
        "prompts": {"name": "list", "options": {"prompts": ["a red fox", "a blue bird"]}},
        "rewards": [
            {"name": "aesthetic", "weight": 0.1, "target": 10.0, "options": {"weights": weights, "head": head}}
        ],
        "frames": {"mode": "random"},
        "train": {"steps": 2, "device": "cpu", "learning_rate": 0.01, "warmup_steps": 0, "checkpoint_every": 1},
        "validation": {"clips": 0},
    }
    whole = vader.train({**spec, "output": str(tmp_path / "whole")})
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm"] > 0 for row in rows)
    for row in rows:
        assert row["loss"] == pytest.approx(0.1 * abs(row["score/aesthetic"] - 10), rel=1e-5)
    parts = {**spec, "output": str(tmp_path / "parts")}
    with pytest.raises(vader.ComponentError, match="raised Interrupted"):
        vader.train(parts, listeners=[AtStep1()])
    vader.train(parts, resume=True)
    one, two = (load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


class Interrupted(Exception):
    """What the listener raises."""


class AtStep1:
    """Interrupts a run after its first optimizer step was saved."""

    @vader.hookimpl
    def vader_step_finished(self, step: int) -> None:
        if step == 2:
            raise Interrupted
