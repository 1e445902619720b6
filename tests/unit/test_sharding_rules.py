"""What weights that are shared out go with, and whose word counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import Notices, tiny
from torch import nn

import vader
from vader.resolve.validate import resolve
from vader.runs import sharding
from vader.runs.checkpoint import Checkpoint
from vader.runs.sharding import ShardedDenoiser, Sharder, asked_by_accelerate
from vader.runs.step_shares import StepShares, step_shares
from vader.spec import TrainSpec
from vader.spec.train import ShardingSpec


def problems(**changes: Any) -> str:
    with pytest.raises(vader.SpecError) as caught:
        resolve(tiny("run", **changes))
    return str(caught.value)


def test_fields_that_do_not_go_together() -> None:
    assert "train.sharding.offload: nothing is shared out" in problems(train={"sharding": {"offload": "cpu"}})
    assert "train.sharding.rewards: nothing is shared out" in problems(train={"sharding": {"rewards": True}})
    full = {"sharding": {"strategy": "full"}}
    assert "train.compile: compiled blocks" in problems(train={**full, "compile": True})
    assert "train.offload_activations: calls" in problems(train={**full, "offload_activations": True})
    cache = {"cache": {"name": "FirstBlockCacheConfig"}}
    assert "rollout.cache: what it leaves out depends on the clip" in problems(train=full, rollout=cache)


@pytest.mark.parametrize(
    ("options", "method", "path"),
    [
        ({"expert_offload": "cpu"}, "reward_gradient", "backbone.options.expert_offload"),
        ({"quantize": "nf4"}, "reward_gradient", "backbone.options.quantize"),
        ({}, "dpo", "train.sharding.strategy: dpo draws a timestep for each pair"),
    ],
)
def test_what_a_backbone_cannot_share_out(options: dict[str, Any], method: str, path: str) -> None:
    made: dict[str, Any] = {
        "backbone": {"name": "wan22", "options": options},
        "train": {"sharding": {"strategy": "full"}, "batch_size": 2, "device": "auto"},
        "method": {"name": method},
        "prompts": {"name": "list", "options": {"prompts": ["a fox"]}},
        "rewards": [],
    }
    with pytest.raises(vader.SpecError, match=path):
        resolve(made)


def test_there_is_nothing_to_offload_on_a_cpu() -> None:
    made = tiny("run", train={"sharding": {"strategy": "full", "offload": "cpu"}})
    with pytest.raises(vader.SpecError, match=r"train\.sharding\.offload: this run is on the CPU"):
        resolve(made, here=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"ACCELERATE_USE_FSDP": "false"}, None),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, ("full", "none")),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, ("hybrid", "none")),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "3"}, ("none", "none")),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, ("full", "cpu")),
    ],
)
def test_what_accelerates_configuration_asks_for(environment: dict[str, str], expected: tuple[str, str] | None) -> None:
    found = asked_by_accelerate(environment)
    assert (found and (found.strategy, found.offload)) == expected


def test_deepspeed_is_refused() -> None:
    with pytest.raises(vader.LaunchError, match="asks for DeepSpeed, which vader does not use"):
        asked_by_accelerate({"ACCELERATE_USE_DEEPSPEED": "true"})


def test_machines_must_have_as_many_processes_for_hybrid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(vader.SpecError, match="3 in all and 2 on this one"):
        Sharder(ShardingSpec(strategy="hybrid"), torch.device("cpu"), 3)


def test_a_network_must_say_which_blocks_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "_mesh", lambda *_: None)
    sharder = Sharder(ShardingSpec(strategy="full"), torch.device("cpu"), 2)
    with pytest.raises(vader.SpecError, match=r"train\.sharding\.strategy: Linear does not say which"):
        sharder.shard(nn.Linear(2, 2), "train.sharding.strategy")


class Net(nn.Module):
    """A frozen layer and one that trains; called as a denoiser of diffusers is."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.adapter = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)
        self.calls = 0

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor]:
        self.calls += 1
        return (self.adapter(self.frozen(latents) * timestep) * scale,)


@pytest.mark.parametrize("recompute", [True, False])
def test_calls_made_again_in_backward_have_the_gradient_of_those_that_are_kept(recompute: bool) -> None:
    """Of the adapter and of the input, over three calls, the first of an input without gradient."""
    torch.manual_seed(0)
    net, start, one = Net(), torch.randn(2, 3), torch.ones(1)

    def gradient(denoiser: nn.Module) -> list[torch.Tensor]:
        net.zero_grad()
        net.calls, latents = 0, start
        for time in (1.0, 2.0, 3.0):
            latents = latents - denoiser(latents, torch.tensor(time), scale=one)[0]
        latents.square().sum().backward()
        return [parameter.grad.clone() for parameter in net.adapter.parameters() if parameter.grad is not None]

    expected = gradient(net)
    found = gradient(ShardedDenoiser(net, recompute=recompute))
    assert len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert net.calls == (6 if recompute else 3)


def test_a_configuration_of_accelerate_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wins over the spec; accelerate itself does not see it, or it would refuse the CPU."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    notices = Notices()
    made = tiny(tmp_path / "run", train={"steps": 1, "warmup_steps": 0, "sharding": {"strategy": "hybrid"}})
    vader.train(made, listeners=[notices])
    assert "accelerate's own configuration decides the sharding: {'strategy': 'full'" in str(notices)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["sharding"]["strategy"] == "full"
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


def test_processes_that_share_out_weights_have_the_same_draw_at_a_time() -> None:
    """A micro-step of two processes has one window; of three that go on for two it may have two: they are refused."""
    shares = StepShares(3, 2)
    assert [[shares.draw(2 * micro + rank) for rank in (0, 1)] for micro in range(3)] == [[0, 0], [1, 1], [2, 2]]
    found = Checkpoint(Path("step-000004"), 4, "", 2, {"first_processes": 2})
    train = TrainSpec(gradient_accumulation=3)
    assert step_shares(train, 1, found, in_step=True) == StepShares(6, 2)
    assert step_shares(train, 3, found) == StepShares(2, 2)
    with pytest.raises(vader.CheckpointError, match="some would have another window than others"):
        step_shares(train, 3, found, in_step=True)
