"""What rewards give and are given: several scores by name, and the clip they will see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from tests.contracts.isolated_rewards import Halves
from tests.contracts.test_isolation import isolate

from vader.methods.context import PhaseTimer, RolloutContext
from vader.methods.objective import Objective, Term
from vader.methods.query_counter import QueryCounter
from vader.protocols import Prompt, Video, score_and_parts
from vader.resolve.build import assemble_rewards
from vader.resolve.components import ResolvedComponent
from vader.testing import Subject

CPU = torch.device("cpu")
PROMPTS = [Prompt("a"), Prompt("b")]


def clips() -> torch.Tensor:
    return torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def context(reward: object) -> RolloutContext:
    """A context that can score, and no more."""
    made = RolloutContext.__new__(RolloutContext)
    object.__setattr__(made, "rewards", {"halves": reward, "plain": Red()})
    object.__setattr__(made, "timer", PhaseTimer(CPU))
    object.__setattr__(made, "queries", QueryCounter())
    object.__setattr__(made, "contrasts", {})
    return made


class Red:
    def score(self, frames: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        return frames[:, :, 0].mean((1, 2, 3))


class Told:
    """A reward that is told about its clips."""

    def __init__(self, video: Video | None = None) -> None:
        self.video = video

    def score(self, frames: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        return frames.mean((1, 2, 3, 4))


def test_parts_are_beside_the_score_without_gradient() -> None:
    frames = clips().requires_grad_()
    scores = context(Halves()).score(frames, PROMPTS)
    assert list(scores) == ["halves", "plain", "halves/left", "halves/right"]
    torch.testing.assert_close(scores["halves"], scores["halves/left"] + 2 * scores["halves/right"])
    assert scores["halves"].requires_grad
    assert not scores["halves/left"].requires_grad
    combined = Objective([Term("halves"), Term("plain", 0.5)]).reward(scores)
    torch.testing.assert_close(combined, scores["halves"] + 0.5 * scores["plain"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"left": torch.zeros(2)}, "gave scores called left; expected one called 'score'"),
        ({}, "gave scores called nothing"),
        (
            {"score": torch.zeros(2), "left": torch.zeros(2, 1)},
            r"gave scores 'left' of shape .2, 1.; expected",
        ),
        (torch.zeros(3), r"gave scores of shape \(3,\); expected \(2,\), one a clip"),
    ],
)
def test_what_is_no_score_is_said(given: torch.Tensor | Mapping[str, torch.Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score_and_parts(given, 2)


def test_the_kit_judges_the_score_that_counts() -> None:
    names = ("scores_have_the_shape", "clips_are_independent", "gradient_equals_finite_differences")
    subject = Subject("reward", Halves)
    assert [subject.outcome(name).status for name in names] == ["passed"] * 3


def test_rewards_are_told_of_the_clips() -> None:
    video = Video(9, 32, 48, 8.0)
    parts = {"told": ResolvedComponent("reward", "told", Told), "red": ResolvedComponent("reward", "red", Red)}
    told = assemble_rewards(parts, CPU, torch.float32, video)["told"]
    assert isinstance(told, Told)
    assert told.video == video


def test_an_isolated_reward_has_parts_too() -> None:
    there, here = isolate("Halves"), Halves()
    try:
        mine, its = clips().requires_grad_(), clips().requires_grad_()
        given, expected = there.score(its, PROMPTS), here.score(mine, PROMPTS)
        assert list(given) == list(expected)
        for name in expected:
            torch.testing.assert_close(given[name], expected[name])
        for scores, frames in ((given, its), (expected, mine)):
            (scores["score"] * torch.tensor([1.0, -2.0])).sum().backward()
            assert frames.grad is not None
        torch.testing.assert_close(its.grad, mine.grad)
    finally:
        there.close()
