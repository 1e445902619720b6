"""Statistics of the report, against tables and hand calculation."""

from __future__ import annotations

import math
import statistics

import pytest

from vader.report.statistics import (
    mean_interval,
    paired_change,
    share_interval,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [  # tables of Student's t
        (0.975, 1, 12.70620474),
        (0.975, 2, 4.30265273),
        (0.975, 5, 2.57058184),
        (0.975, 10, 2.22813885),
        (0.975, 30, 2.04227246),
        (0.975, 127, 1.97881953),
        (0.995, 7, 3.49948330),
        (0.05, 3, -2.35336343),
        (0.5, 4, 0.0),
        (0.975, math.inf, 1.95996398),
    ],
)
def test_t_quantile_agrees_with_tables(probability: float, freedom: float, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("t", [-30.0, -2.0, -0.1, 0.0, 0.7, 3.0, 500.0])
def test_t_quantile_inverts_the_closed_forms_for_one_and_two_degrees(t: float) -> None:
    one, two = 0.5 + math.atan(t) / math.pi, 0.5 + t / (2 * math.sqrt(2 + t * t))
    assert t_quantile(one, 1) == pytest.approx(t, rel=1e-9, abs=1e-12)
    assert t_quantile(two, 2) == pytest.approx(t, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("x", [-0.9, -0.1, 0.0, 0.5, 0.99])
def test_t_quantile_inverts_the_closed_form_for_four_degrees(x: float) -> None:
    """With t = 2 x / sqrt(1 - x^2), P(T <= t) = 1/2 + x (3 - x^2) / 4."""
    probability, t = 0.5 + x * (3 - x * x) / 4, 2 * x / math.sqrt(1 - x * x)
    assert t_quantile(probability, 4) == pytest.approx(t, rel=1e-9, abs=1e-12)


def test_large_degrees_of_freedom_approach_the_normal_distribution() -> None:
    assert t_quantile(0.975, 1e6) == pytest.approx(t_quantile(0.975, math.inf), abs=1e-5)


def test_paired_interval_by_hand() -> None:
    before, after = [0.1, 0.4, 0.3, 0.8], [0.5, 0.5, 0.9, 0.9]
    differences = [0.4, 0.1, 0.6, 0.1]
    half = 3.18244631 * statistics.stdev(differences) / 2  # t(0.975, 3), square root of 4
    change = paired_change(before, after)
    assert (change.count, change.binary) == (4, False)
    assert change.difference == pytest.approx(0.3)
    assert change.interval is not None
    assert change.interval.low == pytest.approx(0.3 - half, abs=1e-8)
    assert change.interval.high == pytest.approx(0.3 + half, abs=1e-8)
    assert change.base_deviation == pytest.approx(statistics.stdev(before))
    assert change.gain == pytest.approx(0.3 / statistics.stdev(before))
    assert change.direction == 0


def test_pairing_finds_what_unpaired_scores_would_hide() -> None:
    before = [0.0, 5.0, -3.0, 9.0, 2.5]
    noise = [0.09, 0.11, 0.1, 0.12, 0.08]
    up = paired_change(before, [value + more for value, more in zip(before, noise, strict=True)])
    down = paired_change(before, [value - more for value, more in zip(before, noise, strict=True)])
    assert (up.direction, down.direction) == (1, -1)


def test_binary_interval_by_hand() -> None:
    """20 clips: 9 gained, 1 lost. Bonett and Price (2012): shares 10/22 and 2/22."""
    before = [0.0] * 9 + [1.0] * 1 + [1.0] * 4 + [0.0] * 6
    after = [1.0] * 9 + [0.0] * 1 + [1.0] * 4 + [0.0] * 6
    change = paired_change(before, after)
    half = 1.95996398 * math.sqrt((12 / 22 - (8 / 22) ** 2) / 22)
    assert change.binary
    assert change.difference == pytest.approx(8 / 20)
    assert change.interval is not None
    assert change.interval.low == pytest.approx(8 / 22 - half, abs=1e-8)
    assert change.interval.high == pytest.approx(8 / 22 + half, abs=1e-8)
    assert change.direction == 1


def test_agreement_of_few_binary_clips_is_no_certainty() -> None:
    unchanged = paired_change([1.0] * 4, [1.0] * 4)
    assert unchanged.interval is not None
    assert unchanged.interval.low < -0.1 < 0.1 < unchanged.interval.high
    assert unchanged.gain is None, "a standard deviation of 0 is no unit"


def test_one_clip_has_no_interval() -> None:
    change = paired_change([0.2], [0.9])
    assert (change.interval, change.base_deviation, change.gain, change.direction) == (None, None, None, 0)
    assert mean_interval([1.0]) is None
    assert share_interval([]) is None


def test_wilson_interval_by_hand() -> None:
    interval = share_interval([1.0] * 8 + [0.0] * 2)  # Wilson (1927) for 8 of 10
    assert interval is not None
    assert interval.low == pytest.approx(0.4901625, abs=1e-6)
    assert interval.high == pytest.approx(0.9433178, abs=1e-6)
