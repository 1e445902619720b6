"""How good a latent reward is said to be: against arithmetic done by hand."""

from __future__ import annotations

import math
import random

import pytest

from vader.reward_training.judging import BINS, judge


def test_regression_is_judged_by_correlation_and_by_tenths() -> None:
    scores = [float(index) for index in range(40)]
    truth = [2 * score + 1 for score in scores]
    found = judge("regression", 100.0, scores, truth)
    assert (found.timestep, found.own) == (100.0, None)
    assert found.agreement == pytest.approx(1.0)
    assert found.rank == pytest.approx(1.0)
    assert len(found.bins) == BINS
    assert found.bins[0] == pytest.approx((1.5, 4.0))
    mean = sum(truth) / 40
    deviation = math.sqrt(sum((value - mean) ** 2 for value in truth) / 39)
    wanted = sum(said + 1 for said, _ in found.bins) / BINS / deviation
    assert found.calibration == pytest.approx(wanted)
    exact = judge("regression", 0.0, truth, truth)
    assert exact.calibration == pytest.approx(0.0)


def test_labels_by_own_prompts_are_judged_apart() -> None:
    scores = [0.0, 1.0, 2.0, -9.0, -9.5, -8.0]
    truth = [2.0, 1.0, 0.0, -9.0, -9.5, -8.0]
    found = judge("regression", 0.0, scores, truth, own=3)
    assert found.own == pytest.approx(-1.0)
    assert found.agreement > 0.9
    assert judge("regression", 0.0, scores, truth, own=6).own is None


def test_what_does_not_vary_agrees_with_nothing() -> None:
    found = judge("regression", 0.0, [1.0] * 12, [float(index) for index in range(12)])
    assert (found.agreement, found.rank, found.calibration) == (0.0, 0.0, None)


def test_answers_are_judged_by_their_probabilities() -> None:
    """Labels drawn by the probabilities that the scores mean are calibrated; overconfident scores are not."""
    rng = random.Random(0)
    scores = [rng.uniform(-4, 4) for _ in range(4000)]
    labels = [float(rng.random() < 1 / (1 + math.exp(-score))) for score in scores]
    found = judge("cross_entropy", 0.0, scores, labels)
    right = sum((score > 0) == (label == 1) for score, label in zip(scores, labels, strict=True)) / 4000
    assert found.agreement == pytest.approx(right)
    assert found.calibration is not None
    assert found.calibration < 0.03
    loud = judge("cross_entropy", 0.0, [5 * score for score in scores], labels)
    assert loud.agreement == found.agreement
    assert loud.calibration is not None
    assert loud.calibration > 0.05


def test_pairs_are_judged_by_their_order() -> None:
    found = judge("bradley_terry", 0.0, [1.0, -1.0, 3.0, 2.0], [])
    assert found.agreement == 0.75
    said = sorted((1 / (1 + math.exp(-abs(d))), float(d > 0)) for d in (1.0, -1.0, 3.0, 2.0))
    assert found.calibration == pytest.approx(sum(abs(p - right) for p, right in said) / 4)
