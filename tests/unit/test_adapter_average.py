"""The moving average of the adapter, and the end of a run whose score no longer rises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vader.runs import early_stop
from vader.runs.events import Validation, ValidationClip
from vader.spec import EarlyStopSpec
from vader.weights.lora.ema import Average


def test_the_average_is_the_weighted_sum_of_all_values() -> None:
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average, expected = Average([parameter], 0.3), 0.0
    for update, value in enumerate([1.0, 4.0, -2.0, 8.0]):
        with torch.no_grad():
            parameter.fill_(value)
        average.update()
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with average.swapped_in():
        assert parameter.item() == pytest.approx(expected)
    assert parameter.item() == 8.0


def test_an_error_inside_puts_the_values_back() -> None:
    parameter = nn.Parameter(torch.ones(2))
    average = Average([parameter], 0.9)
    with torch.no_grad():
        parameter.fill_(3.0)

    def fail() -> None:
        with average.swapped_in():
            assert parameter.tolist() == [1.0, 1.0]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert parameter.tolist() == [3.0, 3.0]


def test_the_state_is_the_whole_average() -> None:
    parameter = nn.Parameter(torch.tensor([2.0]))
    one, other = Average([parameter], 0.5), Average([parameter], 0.5)
    for value in (5.0, 7.0):
        with torch.no_grad():
            parameter.fill_(value)
        one.update()
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update()
    with one.swapped_in():
        first = parameter.item()
    with other.swapped_in():
        assert parameter.item() == first != 7.0


def validation(step: int, score: float) -> Validation:
    return Validation(step, (ValidationClip(0, "a prompt", 0, {"held_out": score}),))


@pytest.mark.parametrize(
    ("scores", "best", "over"),
    [
        ([1.0], 0, False),
        ([1.0, 2.0, 3.0], 20, False),
        ([1.0, 3.0, 2.0], 10, False),
        ([1.0, 3.0, 2.0, 2.9], 10, True),
        ([1.0, 3.0, 3.0, 3.0], 10, True),
        ([1.0, 3.0, 2.0, 3.1], 30, False),
        ([math.nan, 1.0, math.nan, math.nan], 10, True),
    ],
)
def test_a_run_ends_after_patience_validations_without_a_new_best(scores: list[float], best: int, over: bool) -> None:
    spec = EarlyStopSpec(score="held_out", patience=2)
    validations = [validation(10 * index, score) for index, score in enumerate(scores)]
    assert early_stop.best(spec, validations).step == best
    assert early_stop.exhausted(spec, validations) is over
