"""The components of the shapes world keep the core's contracts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from vader import Prompt
from vader.testing import BackboneContract, PromptSourceContract, RewardContract, Subject
from vader_shapes import world
from vader_shapes.prompts import ShapesPrompts
from vader_shapes.rewards import Accuracy
from vader_shapes.scenes import grammar
from vader_shapes.scenes.renderer import render_batch
from vader_shapes.scenes.scene import KINDS

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
    @pytest.fixture(
        params=["shapes_alignment", "shapes_colourfulness", "shapes_sharpness", "shapes_motion", "shapes_accuracy"]
    )
    def reward(self, request: pytest.FixtureRequest) -> Subject:
        makes = rendered if request.param == "shapes_accuracy" else None
        return Subject("reward", request.param, prompts=[Prompt(text) for text in TEXTS], make_clips=makes)


class TestPrompts(PromptSourceContract):
    @pytest.fixture(
        params=[
            ("scenes", "held_out"),
            *(
                pytest.param(case, marks=pytest.mark.slow)
                for case in [("one", "train"), ("one", "held_out"), ("one", "all"), ("scenes", "all")]
            ),
        ]
    )
    def prompts(self, request: pytest.FixtureRequest) -> Subject:
        world, split = request.param
        return Subject("prompts", "shapes", {"split": split, "world": world})


def test_prompts_of_scenes_are_of_all_kinds_and_hold_those_of_one_object() -> None:
    splits = {split: prompts_of(world="scenes", split=split) for split in ("train", "held_out", "all")}
    assert splits["all"] == splits["train"] + splits["held_out"]
    assert [prompt.metadata["kind"] for prompt in splits["held_out"][:5]] == list(KINDS)
    for split in ("train", "held_out"):
        one = [prompt.text for prompt in splits[split] if prompt.metadata["kind"] == "one"]
        assert one == [prompt.text for prompt in prompts_of(world="one", split=split)]


def test_prompts_of_some_kinds_are_those_of_all_without_the_rest() -> None:
    every, some = prompts_of(split="held_out"), prompts_of(split="held_out", kinds=["count", "single"])
    assert some == [prompt for prompt in every if prompt.metadata["kind"] in ("single", "count")]
    with pytest.raises(ValueError, match="kinds"):
        prompts_of(kinds=[])
    with pytest.raises(ValueError, match="one kind only; drop kinds, or set world: scenes"):
        prompts_of(world="one", kinds=["count"])


def prompts_of(**options: object) -> list[Prompt]:
    return ShapesPrompts(ShapesPrompts.Options.model_validate(options)).held()


def test_first_frames_of_scenes_show_them(tmp_path: Path) -> None:
    prompts = prompts_of(world="scenes", split="held_out", images=str(tmp_path))
    with Image.open(str(prompts[2].image)) as picture:
        assert picture.size == (world.SIZE, world.SIZE)
    assert len({prompt.image for prompt in prompts}) == len(prompts) == len(list(tmp_path.iterdir()))


def test_accuracy_judges_scenes_and_each_of_their_attributes() -> None:
    scene = grammar.parse("two red circles moving left slowly on a black background")
    clips = render_batch([scene] * 2, Generator().manual_seed(0))
    prompts = [Prompt(grammar.prompt(replace(scene, count=count))) for count in ("two", "three")]
    for attribute, expected in (("all", [1, 0]), ("count", [1, 0]), ("speed", [1, 1]), ("relation", [1, 1])):
        reward = Accuracy(Accuracy.Options.model_validate({"attribute": attribute}))
        assert reward.score(clips, prompts).tolist() == expected
