"""The fakes of the tests and the components of the core keep the contracts; plugins check their own in their tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes import Brightness, FakeBackbone, FakePrompts, Nearness, PromptLength

from vader.plugins import registry
from vader.testing import (
    BackboneContract,
    Failed,
    PromptSourceContract,
    RewardContract,
    SamplerContract,
    Subject,
    check_backbone,
    check_method,
    check_prompts,
    check_reward,
    check_sampler,
)


class TestBrightness(RewardContract):
    @pytest.fixture
    def reward(self) -> type:
        return Brightness


class TestPromptLength(RewardContract):
    @pytest.fixture
    def reward(self) -> type:
        return PromptLength


class TestNearness(RewardContract):
    """A reward that scores latents."""

    @pytest.fixture
    def reward(self) -> Subject:
        return Subject("reward", Nearness, backbone=FakeBackbone)


def test_a_latent_reward_needs_a_backbone() -> None:
    with pytest.raises(Failed, match="it scores latents: give the kit the backbone that they are of"):
        check_reward(Nearness)


class TestFakeBackbone(BackboneContract):
    @pytest.fixture
    def backbone(self) -> type:
        return FakeBackbone


class TestFakePrompts(PromptSourceContract):
    @pytest.fixture
    def prompts(self) -> type:
        return FakePrompts


class TestListPrompts(PromptSourceContract):
    @pytest.fixture
    def prompts(self) -> Subject:
        return Subject("prompts", "list", {"prompts": ["a fox", "a boat", "rain"]})


class TestDDIM(SamplerContract):
    @pytest.fixture
    def sampler(self) -> str:
        return "ddim"


class TestFlowEuler(SamplerContract):
    @pytest.fixture
    def sampler(self) -> str:
        return "flow_euler"


def test_file_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a fox\na boat\nrain\n")
    check_prompts("file", options={"path": str(path)})


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_diffusers_samplers(scheduler: str) -> None:
    check_sampler("diffusers", options={"scheduler": scheduler})


def test_a_backbone_is_checked_on_the_checkpoint_that_its_tiny_module_writes() -> None:
    outcomes = {outcome.name: outcome for outcome in check_backbone("wan")}
    assert outcomes["a_tiny_configuration_exists"].status == "passed"
    assert outcomes["missing_weights_are_said"].status == "passed"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reward_gradient", {"kl_weight": 0.1}),
        ("flowbp", {"variant": "bridge", "reuse": 2}),
        ("leapalign", {}),
        ("srpo", {}),
        ("prfl", {}),
        ("ddpo", {"inner_epochs": 2, "min_count": 2}),
        ("mixgrpo", {"group_size": 2, "window": 2, "every": 1, "reuse": 2}),
        ("nft", {"group_size": 2, "reuse": 2, "decay_rate": 0.3}),
        ("awm", {"group_size": 2, "reuse": 2, "draws": 2}),
        ("dpo", {"inner_epochs": 2}),
    ],
)
def test_methods(name: str, options: dict[str, Any]) -> None:
    statuses = {outcome.name: outcome.status for outcome in check_method(name, options=options)}
    assert statuses["state_is_whole"] == statuses["losses_come_one_at_a_time"] == "passed"


def test_every_method_is_checked() -> None:
    (checked,) = (mark for mark in test_methods.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {entry.name for entry in registry.entries("method")} == {name for name, _ in checked.args[1]}


def test_a_function_is_a_reward() -> None:
    def redness(frames, prompts):  # type: ignore[no-untyped-def]
        return frames[:, :, 0].mean(dim=(1, 2, 3))

    statuses = {outcome.name: outcome.status for outcome in check_reward(redness)}
    assert statuses["gradient_equals_finite_differences"] == "passed"
    assert statuses["options_are_options"] == "not applicable"
