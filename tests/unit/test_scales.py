"""Scales of rewards, hinges and contrasts: against arithmetic done by hand, and where a spec is refused."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import fmean, pvariance
from typing import Any

import pytest
import torch
from tests.integration.harness import BRIGHTNESS, PROMPT_LENGTH, tiny
from torch import Tensor

from vader import Prompt
from vader.errors import SpecError
from vader.methods.contrast import Contrast, phrased
from vader.methods.objective import Objective, Term
from vader.methods.scales import DECAY, Scale
from vader.methods.scoring import ask_reward
from vader.resolve.validate import check
from vader.spec import RunSpec


def scale(*scores: float, moving: bool = False) -> Scale:
    made = Scale(moving=moving)
    made.start(scores)
    return made


def test_terms_in_spreads() -> None:
    """Target and threshold stay in the score's own units; the distance to them is measured in spreads."""
    score, known = torch.tensor([1.0, 5.0], dtype=torch.float64), scale(1.0, 5.0)
    assert (known.mean, known.spread) == (3.0, 2.0)
    assert Term("x", 3.0, scale=known).reward(score).tolist() == [-3.0, 3.0]
    assert Term("x", 3.0, target=4.0, scale=known).reward(score).tolist() == [-4.5, -1.5]
    assert Term("x", 3.0, threshold=4.0, scale=known).reward(score).tolist() == [-4.5, 0.0]
    assert Term("x", 3.0, threshold=4.0).reward(score).tolist() == [-9.0, 0.0]


def test_above_its_threshold_a_clip_has_no_gradient() -> None:
    score = torch.tensor([1.0, 5.0], requires_grad=True)
    Objective([Term("x", 2.0, threshold=4.0)]).loss({"x": score}).backward()
    assert score.grad is not None
    assert score.grad.tolist() == [-1.0, 0.0]


def test_a_moving_scale_is_the_mean_and_variance_of_all_scores_weighted_by_age() -> None:
    rounds = [[1.0, 4.0, 2.0], [7.0, 9.0], [3.0, 3.0]]
    moving, still = scale(*rounds[0], moving=True), scale(*rounds[0])
    for seen in rounds[1:]:
        moving.follow(seen)
        still.follow(seen)
    weights = [DECAY**2, DECAY * (1 - DECAY), 1 - DECAY]
    mean = sum(weight * fmean(seen) for weight, seen in zip(weights, rounds, strict=True))
    square = sum(w * (pvariance(seen) + fmean(seen) ** 2) for w, seen in zip(weights, rounds, strict=True))
    assert moving.mean == pytest.approx(mean, rel=1e-12)
    assert moving.spread**2 == pytest.approx(square - mean**2, rel=1e-9)
    assert (still.mean, still.spread**2) == pytest.approx((fmean(rounds[0]), pvariance(rounds[0])))


def test_a_scale_is_restored_and_leaves_out_what_is_not_finite() -> None:
    moving, other = scale(1.0, 4.0, moving=True), Scale(moving=True)
    other.load_state_dict(moving.state_dict())
    other.follow([float("nan"), float("inf")])
    assert (other.mean, other.spread) == (moving.mean, moving.spread)
    assert other.started
    assert not Scale().started


@pytest.mark.parametrize("scores", [[2.0, 2.0], [0.0, 0.0], [1.0, float("nan")], [1e6, 1e6 + 1e-6]])
def test_scores_without_a_spread_start_nothing(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="no finite spread"):
        scale(*scores)


class Letters:
    """How many letters a prompt has, times the clip's mean."""

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        return frames.mean(dim=(1, 2, 3, 4)) * torch.tensor([float(len(prompt.text)) for prompt in prompts])


def test_a_contrast_is_one_phrase_against_another() -> None:
    frames = torch.rand(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    prompts = [Prompt("a fox", {"object": "fox"}), Prompt("rain")]
    ask = partial(ask_reward, "letters", Letters(), frames)
    found = Contrast("vivid", "{prompt}, dull and grey", 0.25).score(ask, prompts)["score"]
    means = frames.mean(dim=(1, 2, 3, 4))
    lengths = [(len("vivid a fox"), len("a fox, dull and grey")), (len("vivid rain"), len("rain, dull and grey"))]
    wanted = [1.25 * positive - negative for positive, negative in lengths]
    torch.testing.assert_close(found, means * torch.tensor(wanted))
    assert phrased("vivid", prompts[0]) == Prompt("vivid a fox", {"object": "fox"})
    assert torch.autograd.grad(found.sum(), frames)[0].abs().sum() > 0


def said(**reward: Any) -> str:
    spec = tiny("unused", rewards=[{"name": BRIGHTNESS, "label": "brightness", **reward}])
    with pytest.raises(SpecError) as refused:
        check(spec)
    return str(refused.value)


def test_what_does_not_go_together_is_refused() -> None:
    assert "rewards.0.normalize" in said(normalize="base")
    assert "0 clips" in said(normalize="running")
    assert "rewards.0.threshold: a reward has a threshold or a target" in said(threshold=1.0, target=2.0)
    phrases = {"positive": "vivid", "negative": "dull"}
    assert "does not read the prompt's text" in said(contrast=phrases)
    assert "rewards.0.contrast.k" in said(contrast={**phrases, "k": -1})
    fine = tiny("unused", rewards=[{"name": PROMPT_LENGTH, "contrast": phrases}], method="ddpo", gradient={})
    fine |= {"sampler": {"steps": 3, "eta": 1.0}, "gradient": {}, "backbone": {**fine["backbone"], "adapter": {}}}
    assert check(fine).rewards[0].contrast is not None


def test_a_digest_knows_fields_of_later_versions_only_where_they_say_something() -> None:
    def spec(**reward: Any) -> RunSpec:
        return RunSpec.model_validate(tiny("unused", rewards=[{"name": "x", **reward}]))

    plain = spec().digest()
    assert spec(threshold=None, normalize="none", contrast=None).digest() == plain
    assert len({plain, spec(threshold=1.0).digest(), spec(normalize="base").digest()}) == 3
