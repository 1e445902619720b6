from __future__ import annotations

import pytest
import torch

from vader_shapes import scorer, world

PROMPT = "a red circle moving left on a black background"


@pytest.mark.parametrize("shape", [(1, 2, 3, 32, 32), (2, 9, 3, 32, 32), (1, 17, 3, 48, 64)])
def test_takes_any_length_and_size(shape: tuple[int, ...]) -> None:
    scores = scorer.ShapesScorer()(torch.rand(shape), [PROMPT] * shape[0])
    assert scores.shape == shape[:1]
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_is_finite_with_finite_gradients_on_plain_clips(value: float) -> None:
    frames = torch.full((1, 9, 3, 32, 32), value, requires_grad=True)
    scorer.ShapesScorer()(frames, [PROMPT]).sum().backward()
    assert frames.grad is not None
    assert torch.isfinite(frames.grad).all()


def test_unknown_and_empty_prompts_have_a_score() -> None:
    scores = scorer.ShapesScorer()(torch.rand(2, 9, 3, 32, 32), ["", "a sunset over the sea, " * 20])
    assert torch.isfinite(scores).all()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames must be \(b, f >= 2, 3, h, w\)"):
        scorer.ShapesScorer()(torch.rand(1, 1, 3, 32, 32), [PROMPT])
    with pytest.raises(ValueError, match="2 clips but 1 prompts"):
        scorer.ShapesScorer()(torch.rand(2, 9, 3, 32, 32), [PROMPT])


def test_the_trained_scorer_prefers_the_right_prompt() -> None:
    held_out = world.held_out_combinations()
    frames = world.render_batch(held_out, torch.Generator().manual_seed(0))
    prompts = [world.prompt(a) for a in world.all_combinations()]
    best = scorer.load_scorer().similarities(frames, prompts).argmax(1).tolist()
    right = [prompts[i] == world.prompt(a) for i, a in zip(best, held_out, strict=True)]
    assert sum(right) / len(right) >= 0.9


def test_the_trained_scorer_has_gradients_in_the_pixels() -> None:
    held_out = world.held_out_combinations()[:4]
    frames = world.render_batch(held_out, torch.Generator().manual_seed(0)).requires_grad_()
    scorer.load_scorer()(frames, [PROMPT] * 4).sum().backward()
    assert frames.grad is not None
    assert (frames.grad.abs().amax(dim=(1, 2, 3, 4)) > 0).all()
