"""AdamW, of torch and of bitsandbytes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from vader.estimation.optimizers import InPlaceAdamW
from vader.resolve.machine import machine_fits
from vader.runs.optimizer import adamw
from vader.spec import RunSpec, TrainSpec

CPU = torch.device("cpu")


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((64, 128), (8, 8))]


def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def held(optimizer: torch.optim.Optimizer, *, without: str = "") -> int:
    state = [(name, value) for each in optimizer.state.values() for name, value in each.items()]
    return sum(value.nbytes for name, value in state if isinstance(value, torch.Tensor) and name[:4] != without)


def test_a_missing_package_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = {"backbone": "wan", "prompts": "list", "train": {"optimizer": "adamw_8bit", "device": "cpu"}}
    assert [path for path, message in machine_fits(RunSpec.model_validate(data)) if "bitsandbytes" in message] == [
        "train.optimizer"
    ]


class TestEightBits:
    """With the package, which runs on the CPU."""

    @pytest.fixture(autouse=True)
    def package(self) -> None:
        pytest.importorskip("bitsandbytes")

    def made(self) -> torch.optim.Optimizer:
        return adamw(TrainSpec(optimizer="adamw_8bit", learning_rate=0.01, weight_decay=0.1), parameters(), CPU)

    def test_steps_are_about_those_of_torch(self) -> None:
        small = self.made()
        plain = adamw(TrainSpec(learning_rate=0.01, weight_decay=0.1), parameters(), CPU)
        for seed in range(3):
            step(small, seed)
            step(plain, seed)
        pairs = zip(small.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True)
        for place, (found, expected) in enumerate(pairs):
            torch.testing.assert_close(found, expected, rtol=0, atol=(0.005, 1e-6)[place])

    def test_its_state_is_kept_and_restored(self) -> None:
        one, other = self.made(), self.made()
        step(one, 0)
        other.load_state_dict(one.state_dict())
        for mine, theirs in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            theirs.data.copy_(mine.data)
        step(one, 1)
        step(other, 1)
        for mine, theirs in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
            assert torch.equal(mine, theirs)

    def test_an_estimate_holds_as_much(self) -> None:
        """But for the two tables of numbers that all parameters share."""
        real, outlined = self.made(), InPlaceAdamW(parameters(), eight_bits=True)
        step(real, 0)
        step(outlined, 0)
        assert held(outlined) == held(real, without="qmap")
