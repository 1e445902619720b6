"""The components of the shapes world keep the core's contracts."""

from __future__ import annotations

import pytest
from torch import Generator, Tensor
from torch.nn import functional

from vader import Prompt
from vader.testing import BackboneContract, PromptSourceContract, RewardContract, Subject
from vader_shapes import world

TEXTS = tuple(world.prompt(one) for one in world.held_out_combinations()[::9])


def rendered(b: int, f: int, h: int, w: int) -> Tensor:
    """What the prompts say, ``(b f 3 h w)``: the world's clips, of another length or size where that is asked for."""
    shown = [world.parse(TEXTS[index % len(TEXTS)]) for index in range(b)]
    clips = world.render_batch(shown, Generator().manual_seed(0)).transpose(1, 2)
    return functional.interpolate(clips, (f, h, w), mode="trilinear").clamp(0, 1).transpose(1, 2)


class TestBackbone(BackboneContract):
    @pytest.fixture
    def backbone(self) -> Subject:
        return Subject("backbone", "shapes", prompts=[Prompt(text) for text in TEXTS])


class TestRewards(RewardContract):
    @pytest.fixture(params=["shapes_alignment", "shapes_colourfulness", "shapes_motion", "shapes_accuracy"])
    def reward(self, request: pytest.FixtureRequest) -> Subject:
        makes = rendered if request.param == "shapes_accuracy" else None
        return Subject("reward", request.param, prompts=[Prompt(text) for text in TEXTS], make_clips=makes)


class TestPrompts(PromptSourceContract):
    @pytest.fixture(params=["train", "held_out", "all"])
    def prompts(self, request: pytest.FixtureRequest) -> Subject:
        return Subject("prompts", "shapes", {"split": request.param})
