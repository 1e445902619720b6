"""The scorer of scenes, and what it is trained on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vader_shapes.model import build_vae
from vader_shapes.pretrain import scorer as stage
from vader_shapes.pretrain.common import Budget
from vader_shapes.pretrain.defects import attacked
from vader_shapes.scenes import evaluator, grammar, renderer, splits
from vader_shapes.scenes.changes import SHAPE, changeable, changed
from vader_shapes.scenes.facts import NOTHING, PAIRS, VALUES, said
from vader_shapes.scenes.scene import BACKGROUNDS, COLOURS, KINDS, RELATIONS, Scene
from vader_shapes.scenes.scorer import Reading, SceneScorer, load_scorer

PROMPTS = ["a red circle moving left on a black background", "two blue squares standing still on a grey background"]


def drawn(count: int) -> list[Scene]:
    rng = random.Random(0)
    return [splits.draw_training(rng, kind) for kind in KINDS for _ in range(count)]


def test_a_change_is_a_sentence_and_no_longer_what_the_clip_shows() -> None:
    rng, scenes = random.Random(1), drawn(3)
    pairs = [(scene, changed(scene, way, rng)) for scene in scenes for way in changeable(scene)]
    assert all(grammar.parse(grammar.prompt(other)) == other for _, other in pairs)
    clips = renderer.render_batch([scene for scene, _ in pairs], torch.Generator().manual_seed(0))
    assert not evaluator.accuracy(clips, [grammar.prompt(other) for _, other in pairs])["all"].any()


@pytest.mark.parametrize("scene", [scene for kind in KINDS for scene in splits.held_out_split(kind)[:12]])
def test_facts_are_what_the_scene_says(scene: Scene) -> None:
    facts, colours = said([grammar.prompt(scene)]), list(COLOURS)
    assert facts.present[0].tolist() == [int(one in {thing.colour for thing in scene.things}) for one in colours]
    for place, thing in enumerate(scene.things):
        moves = place == 0 or scene.kind == "relation"
        expected = {"number": scene.count or "one", "shape": thing.shape, "size": thing.size}
        expected |= {"motion": scene.motion if moves else None, "speed": scene.speed if moves else None}
        found = facts.properties[0, colours.index(thing.colour)].tolist()
        assert found == [NOTHING if value is None else VALUES[name].index(value) for name, value in expected.items()]
    named = [(PAIRS[i], RELATIONS[value]) for i, value in enumerate(facts.relation[0].tolist()) if value != NOTHING]
    assert named == ([(tuple(thing.colour for thing in scene.things), scene.relation)] if scene.relation else [])
    assert facts.background.tolist() == [[list(BACKGROUNDS).index(scene.background)]]


def test_other_words_say_nothing() -> None:
    facts = said(["", "a fox runs left through the snow, slowly", "A sharp film of a Red circle."])
    assert (facts.present[:2] == NOTHING).all()
    assert (facts.properties[:2] == NOTHING).all()
    assert facts.properties[2, 0].tolist() == [0, 0, NOTHING, NOTHING, NOTHING]
    assert (facts.background == NOTHING).all()


def test_the_score_is_the_sum_of_the_log_probabilities_of_what_is_said() -> None:
    torch.manual_seed(0)
    reading = SceneScorer().read(torch.rand(1, 9, 3, 32, 32))
    score = reading.log_probability(said(["two red circles standing still on a grey background"]))
    number, shape, _, motion, _ = (read[0, 0] for read in reading.properties)
    expected = (
        reading.present[0, 0, 1]
        + reading.present[0, 1:, 0].sum()
        + reading.background[0, 0, list(BACKGROUNDS).index("grey")]
    )
    torch.testing.assert_close(score[0], expected + number[1] + shape[0] + motion[4])


def test_doubt_bounds_what_a_clip_has_no_trace_of() -> None:
    sure = torch.tensor([[[0.0, -60.0, -60.0, -60.0]]])
    doubted = Reading(sure, [], sure, sure).doubted(0.2)
    torch.testing.assert_close(doubted.present.exp(), torch.tensor([[[0.85, 0.05, 0.05, 0.05]]]))
    assert doubted.relation.exp().sum() == pytest.approx(1.0)


def test_a_morph_goes_from_one_shape_to_the_other() -> None:
    scene = grammar.parse("a large red square moving left slowly on a black background")
    clips = [renderer.render_morph(scene, 0, "circle", share, torch.Generator().manual_seed(0)) for share in (0.0, 1.0)]
    seen = [reading.objects for reading in evaluator.read(torch.stack(clips))]
    assert [objects[0].shape for objects in seen if objects] == ["square", "circle"]
    clips, others, shares = stage.morphs(6, 0)
    assert 0 <= float(shares.min()) <= float(shares.max()) <= 0.5
    for one, other in zip(clips.scenes, others, strict=True):
        assert other is not None
        assert replace(other, things=one.things) == one
        assert other.things[0].shape != one.things[0].shape


def test_an_attack_moves_each_clip_by_its_share_to_where_the_loss_rises() -> None:
    frames, target = 0.4 + 0.2 * torch.rand(64, 9, 3, 32, 32), torch.rand(64, 9, 3, 32, 32)

    def loss(clips: torch.Tensor) -> torch.Tensor:
        return (clips * target).sum()  # rises fastest along `target`, wherever a clip is

    moved = attacked(frames, loss, 2.0, torch.Generator().manual_seed(0)) - frames
    distance = moved.flatten(1).norm(dim=1)
    assert distance.max() <= 2.0 + 1e-5
    assert distance.mean() == pytest.approx(1.0, abs=0.2)
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(1), target.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(64), atol=1e-4, rtol=0)
    far = attacked(frames, lambda clips: clips.sum(), 1e3, torch.Generator().manual_seed(0))
    assert far.max() <= 1


def test_the_loss_of_a_morph_lies_between_its_shapes_and_a_rough_clip_teaches_none() -> None:
    torch.manual_seed(0)
    scorer, frames = SceneScorer(), torch.rand(1, 9, 3, 32, 32)
    scene = grammar.parse("a small red square moving left slowly on a black background")
    other = replace(scene, things=(replace(scene.things[0], shape="circle"),))
    texts = [grammar.prompt(one) for one in (scene, other)]
    own, rest = (scorer.read(frames).log_probability(said([text]))[0] for text in texts)
    index = torch.tensor([0])

    def loss(shape_known: bool) -> torch.Tensor:
        pool = stage.Pool(frames, texts[:1], torch.tensor([0.7]), texts[1:], torch.tensor([shape_known]))
        return stage.negative_log_likelihood(scorer, pool, index, frames)

    torch.testing.assert_close(loss(True), -(0.7 * own + 0.3 * rest))
    unsaid = [text.replace("square", "thing").replace("circle", "thing") for text in texts[:1]]
    torch.testing.assert_close(loss(False), -scorer.read(frames).log_probability(said(unsaid))[0])


def test_scores_depend_on_which_object_has_which_colour_and_on_no_other_clip() -> None:
    torch.manual_seed(0)
    scorer, frames = SceneScorer().eval(), torch.rand(2, 9, 3, 32, 32)
    texts = [
        "a red circle left of a blue square both moving up on a black background",
        "a blue circle left of a red square both moving up on a black background",
    ]
    one, other = scorer(frames, texts), scorer(frames, texts[::-1])
    assert (one - other).abs().min() > 1e-5
    torch.testing.assert_close(scorer(frames[1:], texts[1:]), one[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 2, 3, 32, 32), (2, 17, 3, 48, 64)])
def test_takes_any_length_and_size_and_any_text(shape: tuple[int, ...]) -> None:
    frames = torch.rand(shape, requires_grad=True)
    scores = SceneScorer()(frames, ["", "a sunset over the sea, " * 20])
    assert scores.shape == shape[:1]
    scores.sum().backward()
    assert frames.grad is not None
    assert torch.isfinite(frames.grad).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames must be \(b, f >= 2, 3, h, w\)"):
        SceneScorer()(torch.rand(1, 1, 3, 32, 32), PROMPTS[:1])
    with pytest.raises(ValueError, match="2 clips but 1 prompts"):
        SceneScorer()(torch.rand(2, 9, 3, 32, 32), PROMPTS[:1])


def test_the_stage_trains_a_scorer_that_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_vae().save_pretrained(tmp_path / "vae")
    budget = Budget(steps=2, batch=2, learning_rate=1e-2, warmup=1)
    file = tmp_path / "scorer.safetensors"
    stage.train_scorer(tmp_path, budget, weights=file, counts=(4, 2, 2), held_out_every=60)
    assert torch.isfinite(load_scorer(file)(torch.rand(2, 9, 3, 32, 32), PROMPTS)).all()
    assert '"held_out_noisy"' in (tmp_path / "scorer.jsonl").read_text()


def test_what_can_be_changed_is_what_is_said() -> None:
    scene = grammar.parse("a small red circle standing still on a black background")
    assert set(changeable(scene)) == {"colour", SHAPE, "motion", "background", "size"}


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    return splits.held_out_scenes()[::2]


def test_the_trained_scorer_prefers_the_right_prompt(held_out: list[Scene]) -> None:
    frames = renderer.render_batch(held_out, torch.Generator().manual_seed(0))
    won = stage.choices(load_scorer(), frames, held_out)
    assert min(won.values()) >= 0.95, won


def test_the_trained_scorer_has_gradients_in_the_pixels(held_out: list[Scene]) -> None:
    frames = renderer.render_batch(held_out[:10], torch.Generator().manual_seed(0)).requires_grad_()
    load_scorer()(frames, [grammar.prompt(scene) for scene in held_out[:10]]).sum().backward()
    assert frames.grad is not None
    assert (frames.grad.abs().amax(dim=(1, 2, 3, 4)) > 0).all()
