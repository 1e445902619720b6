"""The objective: the reference's losses as terms, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vader.methods.objective import Objective, Term

Scores = dict[str, Tensor]

REFERENCE: dict[str, tuple[list[Term], Callable[[Scores], Tensor], float]] = {
    "aesthetic": ([Term("a", 0.1, 10.0)], lambda s: 0.1 * (s["a"] - 10).abs(), 0.0),
    "hps": ([Term("h")], lambda s: 1 - s["h"], 1.0),
    "aesthetic_hps": (
        [Term("a", 0.075, 10.0), Term("h", 0.5)],
        lambda s: (1.5 * 0.1 * (s["a"] - 10).abs() + (1 - s["h"])) / 2,
        0.5,
    ),
    "pickscore": ([Term("p", 0.01, 100.0)], lambda s: (1 - s["p"] / 100).abs(), 0.0),
    "weather": ([Term("w", 1.0, 0.4)], lambda s: (s["w"] - 0.4).abs(), 0.0),
}
"""Name -> terms, the reference's loss, and the constant by which ours is less."""


def scores() -> Scores:
    """Below and above every target."""
    values = {"a": [5.2, 10.7, 6.1], "h": [0.27, 0.31, 1.2], "p": [21.5, 104.0, 18.3], "w": [0.1, 0.9, 0.55]}
    return {key: torch.tensor(value, requires_grad=True) for key, value in values.items()}


@pytest.mark.parametrize("name", REFERENCE)
def test_has_the_references_loss(name: str) -> None:
    terms, reference, constant = REFERENCE[name]
    ours = Objective(terms).loss(scores())
    torch.testing.assert_close(ours + constant, reference(scores()).mean())


@pytest.mark.parametrize("name", REFERENCE)
def test_has_the_references_gradient(name: str) -> None:
    terms, reference, _ = REFERENCE[name]
    ours, theirs = scores(), scores()
    Objective(terms).loss(ours).backward()
    reference(theirs).mean().backward()
    for term in terms:
        found, expected = ours[term.key].grad, theirs[term.key].grad
        assert found is not None
        assert found.abs().min() > 0
        torch.testing.assert_close(found, expected)


def test_maximised_score_counts_by_its_weight() -> None:
    assert Term("x", 2.0).reward(torch.tensor([1.0, -3.0])).tolist() == [2, -6]


def test_target_of_zero_is_a_target() -> None:
    assert Term("x", 2.0, 0.0).reward(torch.tensor([1.0, -3.0])).tolist() == [-2, -6]


def test_reward_is_per_clip_and_the_sum_of_its_terms() -> None:
    objective = Objective([Term("x", 2.0), Term("y", 1.0, 1.0)])
    found = objective.reward({"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([0.0, 4.0])})
    assert found.tolist() == [2 - 1, 4 - 3]


def test_loss_is_minus_the_mean_reward() -> None:
    assert Objective([Term("x")]).loss({"x": torch.tensor([1.0, 2.0, 6.0])}) == -3


def test_scores_that_are_no_term_do_not_count() -> None:
    assert Objective([Term("x")]).loss({"x": torch.tensor([1.0]), "logged": torch.tensor([9.0])}) == -1


def test_half_precision_scores_are_combined_in_float32() -> None:
    found = Objective([Term("x"), Term("y")]).reward(
        {"x": torch.tensor([2048.0], dtype=torch.float16), "y": torch.tensor([1.0], dtype=torch.float16)}
    )
    assert (found.dtype, found.item()) == (torch.float32, 2049)


def test_a_missing_score_is_not_passed_over() -> None:
    with pytest.raises(KeyError, match="y"):
        Objective([Term("x"), Term("y")]).reward({"x": torch.tensor([1.0])})
