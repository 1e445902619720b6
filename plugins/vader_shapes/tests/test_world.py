from __future__ import annotations

import itertools

import pytest
import torch

from vader_shapes import world


def clip(attributes: world.Attributes, seed: int = 0) -> torch.Tensor:
    return world.render(attributes, torch.Generator().manual_seed(seed))


def test_prompts_read_back_for_every_combination() -> None:
    for attributes in world.all_combinations():
        assert world.parse(world.prompt(attributes)) == attributes


def test_prompt_form() -> None:
    attributes = world.Attributes("circle", "red", "left", "black")
    assert world.prompt(attributes) == "a red circle moving left on a black background"
    assert world.parse("  A red circle  moving left on a black background. ") == attributes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat", "not a prompt of the shapes world: 'a cat'"),
        ("", "not a prompt of the shapes world: ''"),
        ("a pink circle moving left on a black background", "unknown colour 'pink': expected one of red, green"),
        ("a red hexagon moving left on a black background", "unknown shape 'hexagon'"),
        ("a red circle moving north on a black background", "unknown motion 'north'"),
        ("a red circle moving left on a pink background", "unknown background 'pink'"),
    ],
)
def test_wrong_prompts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.parse(text)


def test_clips_have_the_documented_form() -> None:
    frames = clip(world.Attributes("square", "blue", "up", "white"))
    assert frames.shape == (world.FRAMES, 3, world.SIZE, world.SIZE)
    assert frames.dtype == torch.float32
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_rendering_is_seeded_and_leaves_the_global_generator_alone() -> None:
    attributes = world.Attributes("triangle", "green", "down", "grey")
    before = torch.get_rng_state()
    assert torch.equal(clip(attributes, 3), clip(attributes, 3))
    assert not torch.equal(clip(attributes, 3), clip(attributes, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_edges_are_anti_aliased() -> None:
    frames = clip(world.Attributes("circle", "red", "left", "black"))
    assert frames[:, 0].unique().numel() > 20


def test_split_is_a_partition_of_which_a_fifth_is_held_out() -> None:
    train, held_out = world.train_combinations(), world.held_out_combinations()
    assert (len(train), len(held_out)) == (144, 36)
    assert sorted(train + held_out) == sorted(world.all_combinations())


def test_every_pair_of_values_occurs_in_training() -> None:
    train = world.train_combinations()
    for first, second in itertools.combinations(world.VALUES, 2):
        seen = {(getattr(a, first), getattr(a, second)) for a in train}
        assert seen == set(itertools.product(world.VALUES[first], world.VALUES[second]))


def test_no_object_colour_is_near_a_background() -> None:
    colours = torch.tensor(list(world.COLOURS.values()))
    backgrounds = torch.tensor(list(world.BACKGROUNDS.values()))
    assert torch.cdist(colours, backgrounds).min() > 0.4
