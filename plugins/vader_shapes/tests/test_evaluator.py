from __future__ import annotations

import dataclasses

import pytest
import torch

from vader_shapes import evaluator, world


def clips_of(combinations: list[world.Attributes], seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    frames = world.render_batch(combinations, torch.Generator().manual_seed(seed))
    return frames, [world.prompt(a) for a in combinations]


def other(value: str, name: str) -> str:
    values = world.VALUES[name]
    return values[(values.index(value) + 1) % len(values)]


def test_reads_rendered_clips() -> None:
    frames, prompts = clips_of(world.all_combinations() * 2)
    for name, right in evaluator.accuracy(frames, prompts).items():
        assert right.dtype == torch.bool
        assert right.shape == (len(prompts),)
        assert right.float().mean() >= 0.99, name


def test_reads_slightly_noisy_clips() -> None:
    frames, prompts = clips_of(world.all_combinations())
    noise = 0.05 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    assert evaluator.accuracy((frames + noise).clamp(0, 1), prompts)["all"].float().mean() >= 0.98


@pytest.mark.parametrize("name", list(world.VALUES))
def test_one_swapped_attribute_is_wrong_and_the_rest_right(name: str) -> None:
    combinations = world.all_combinations()
    frames, _ = clips_of(combinations)
    swapped = [dataclasses.replace(a, **{name: other(getattr(a, name), name)}) for a in combinations]
    right = evaluator.accuracy(frames, [world.prompt(a) for a in swapped])
    for key, value in right.items():
        share = value.float().mean().item()
        assert share <= 0.01 if key in (name, "all") else share >= 0.99, key


def test_noise_and_plain_clips_show_no_object() -> None:
    noise = torch.rand(16, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = torch.zeros(2, 9, 3, 32, 32) + torch.tensor([0.05, 0.95]).view(2, 1, 1, 1, 1)
    for reading in evaluator.read(torch.cat([noise, plain])):
        assert (reading.shape, reading.colour, reading.motion) == (None, None, None)


def test_a_static_clip_has_no_motion() -> None:
    frames, _ = clips_of(world.all_combinations())
    static = frames[:, :1].expand_as(frames)
    assert {reading.motion for reading in evaluator.read(static)} == {None}


def test_two_objects_are_not_one() -> None:
    left, _ = clips_of([world.Attributes("circle", "red", "up", "black")])
    both = torch.maximum(left.roll(-9, dims=-1), left.roll(9, dims=-1))
    assert evaluator.read(both)[0].shape is None


def test_an_object_that_vanishes_is_defective() -> None:
    frames, _ = clips_of([world.Attributes("circle", "red", "left", "black")])
    frames[:, 5] = frames[:, 5, :, :1, :1]
    reading = evaluator.read(frames)[0]
    assert (reading.shape, reading.colour, reading.motion) == (None, None, None)


def test_an_object_that_turns_back_has_no_motion() -> None:
    frames, _ = clips_of([world.Attributes("circle", "red", "left", "black")])
    there_and_back = frames[:, [0, 2, 4, 6, 8, 6, 4, 2, 0]]
    assert evaluator.read(there_and_back)[0].motion is None


def test_values_that_are_not_finite_do_not_fail() -> None:
    assert evaluator.read(torch.full((1, 9, 3, 32, 32), float("nan")))[0].shape is None


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clips must be \(b, f >= 2, 3, s, s\)"):
        evaluator.read(torch.zeros(9, 3, 32, 32))
    with pytest.raises(ValueError, match="1 clips but 2 prompts"):
        evaluator.accuracy(torch.zeros(1, 9, 3, 32, 32), ["a", "b"])
