"""The scenes: sentences, splits, and the evaluator, which reads rendered clips without knowing their prompts."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from vader_shapes import world
from vader_shapes.scenes import evaluator, grammar, renderer, splits
from vader_shapes.scenes.scene import COLOURS, KINDS, SHAPES, Scene, Thing


def drawn(kind: str, count: int, seed: int = 0) -> list[Scene]:
    rng = random.Random(seed)
    return [splits.draw(kind, rng) for _ in range(count)]


def clips_of(scenes: list[Scene], seed: int = 0) -> torch.Tensor:
    return renderer.render_batch(scenes, torch.Generator().manual_seed(seed))


def shares(frames: torch.Tensor, scenes: list[Scene]) -> dict[str, float]:
    right = evaluator.accuracy(frames, [grammar.prompt(scene) for scene in scenes])
    return {name: value.float().mean().item() for name, value in right.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_read_back_and_all_their_words_are_known(kind: str) -> None:
    words = set(grammar.vocabulary())
    for scene in drawn(kind, 200):
        assert grammar.parse(grammar.prompt(scene)) == scene
        assert set(grammar.prompt(scene).split()) <= words


def test_the_examples_are_prompts_of_their_kinds() -> None:
    assert {kind: grammar.parse(text).kind for kind, text in grammar.EXAMPLES.items()} == {kind: kind for kind in KINDS}
    assert grammar.parse(" Two red diamonds  standing still on a grey background. ").things == (
        Thing("red", "diamond"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat",
        "two red circle standing still on a grey background",
        "one red circles standing still on a grey background",
        "a red circle left of a red square both standing still on a grey background",
        "a cyan circle moving left on a black background",
        "a red circle standing still on a black background",
        "four red circles standing still on a grey background",
    ],
)
def test_what_is_no_sentence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a prompt of the scenes"):
        grammar.parse(text)


def test_prompts_of_the_world_of_one_object_are_scenes() -> None:
    for one in world.all_combinations():
        scene = grammar.parse(world.prompt(one))
        assert scene.kind == "one"
        assert splits.attributes(scene) == one


@pytest.mark.parametrize("kind", KINDS)
def test_every_attribute_is_read_in_rendered_clips(kind: str) -> None:
    scenes = drawn(kind, 150, seed=1)
    assert min(shares(clips_of(scenes), scenes).values()) >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_noise_hardly_disturbs_the_reading(kind: str) -> None:
    scenes = drawn(kind, 60, seed=2)
    frames = clips_of(scenes)
    noise = 0.04 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    assert shares((frames + noise).clamp(0, 1), scenes)["all"] >= 0.95


def other(value: str, values: object) -> str:
    names = list(values)  # type: ignore[call-overload]
    return str(names[(names.index(value) + 1) % len(names)])


def changed(scene: Scene, name: str) -> Scene:
    """The scene with another value of one attribute."""
    first, *rest = scene.things
    if name == "colour":
        free = [colour for colour in COLOURS if colour not in {thing.colour for thing in scene.things}]
        return replace(scene, things=(replace(first, colour=free[0]), *rest))
    if name == "shape":
        return replace(scene, things=(replace(first, shape=other(first.shape, SHAPES)), *rest))
    if name == "size":
        return replace(scene, things=(replace(first, size=other(str(first.size), ("small", "large"))),))
    if name == "motion":
        return replace(scene, motion=other(scene.motion, ("left", "right", "up", "down")))
    if name == "speed":
        return replace(scene, speed=other(str(scene.speed), ("slowly", "quickly")))
    if name == "count":
        return replace(scene, count=other(str(scene.count), ("one", "two", "three")))
    if name == "background":
        return replace(scene, background=other(scene.background, ("black", "grey", "white")))
    sides = ("left of", "right of", "above", "below") if scene.kind == "relation" else ("behind", "in front of")
    return replace(scene, relation=other(str(scene.relation), sides))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("single", name) for name in ("colour", "shape", "size", "motion", "speed", "background")),
        ("count", "count"),
        *(("relation", name) for name in ("colour", "shape", "relation", "motion")),
        *(("passing", name) for name in ("colour", "shape", "relation", "motion")),
    ],
)
def test_a_wrong_attribute_is_wrong_and_the_others_are_right(kind: str, name: str) -> None:
    scenes = [scene for scene in drawn(kind, 80, seed=3) if scene.motion != "still"][:40]
    right = shares(clips_of(scenes), [changed(scene, name) for scene in scenes])
    assert right[name] == right["all"] == 0.0
    independent = {"background", "count"} if name == "colour" else set(evaluator.ATTRIBUTES)
    assert min(right[one] for one in independent - {name}) >= 0.97


def test_two_objects_with_their_colours_exchanged_are_bound_wrongly() -> None:
    scenes = [scene for scene in drawn("relation", 80) if scene.things[0].shape != scene.things[1].shape][:40]
    exchanged = []
    for scene in scenes:
        a, b = scene.things
        exchanged.append(replace(scene, things=(replace(a, colour=b.colour), replace(b, colour=a.colour))))
    right = shares(clips_of(scenes), exchanged)
    assert right["colour"] == 1.0
    assert right["shape"] == right["relation"] == 0.0


def test_defective_clips_are_not_read() -> None:
    scenes = drawn("relation", 12)
    frames = clips_of(scenes)
    vanished = frames.clone()
    vanished[:, 4] = vanished[:, 4, :, :1, :1]
    noise = torch.rand(frames.shape, generator=torch.Generator().manual_seed(0))
    for clips in (vanished, noise, frames[:, :, :, :1, :1].expand_as(frames), torch.full_like(frames, float("nan"))):
        assert shares(clips, scenes)["all"] == 0.0
    assert all(reading.objects is None for reading in evaluator.read(torch.cat([vanished, noise])))


def test_a_third_colour_and_a_fourth_object_make_another_number() -> None:
    (pair,), (three,) = drawn("relation", 1), [scene for scene in drawn("count", 40) if scene.count == "three"][:1]
    frames = clips_of([pair, three])
    ground = frames[:, :1, :, :1, :1]
    frames[:, :, :, :5, :5] = torch.tensor([0.9, 0.1, 0.9]).view(3, 1, 1) * 0.5 + ground * 0.5
    assert not evaluator.accuracy(frames, [grammar.prompt(pair), grammar.prompt(three)])["all"].any()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clips must be \(b, f >= 2, 3, 32, 32\)"):
        evaluator.read(torch.zeros(1, 9, 3, 16, 16))
    with pytest.raises(ValueError, match="1 clips but 0 prompts"):
        evaluator.accuracy(torch.zeros(1, 9, 3, 32, 32), [])


def test_rendering_is_seeded_stays_in_range_and_leaves_the_border_free() -> None:
    scenes = splits.training_scenes(60, 0)
    frames = clips_of(scenes)
    assert torch.equal(frames, clips_of(scenes))
    assert not torch.equal(frames, clips_of(scenes, seed=1))
    assert 0 <= frames.min() <= frames.max() <= 1
    corners = frames[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.amax(-1) - corners.amin(-1)).max() < 1e-6


def test_training_never_sees_what_is_held_out() -> None:
    assert all(not splits.unseen(scene) for scene in splits.training_scenes(3000, 0))
    assert all(not splits.unseen(scene) for kind in KINDS for scene in splits.train_split(kind))
    wanted = {"one": "one", "single": "pair", "count": "count", "relation": "relation", "passing": "relation"}
    for kind in KINDS:
        held_out = splits.held_out_split(kind)
        assert {splits.unseen(scene) for scene in held_out} == {frozenset({wanted[kind]})}
        assert len(set(held_out)) == len(held_out) == (36 if kind == "one" else 48)


def test_every_value_of_a_held_out_combination_is_seen_in_training() -> None:
    scenes = splits.training_scenes(4000, 1)
    relations = {(s.relation, t.shape) for s in scenes for t in s.things if s.relation}
    numbers = {s.count for s in scenes}
    things = {t.colour for s in scenes for t in s.things}, {t.shape for s in scenes for t in s.things}
    assert len(relations) == 6 * len(SHAPES)
    assert numbers == {None, "one", "two", "three"}
    assert things == (set(COLOURS), set(SHAPES))
