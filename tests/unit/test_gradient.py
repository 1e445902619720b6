"""Gradient windows: which steps each mode gives."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from vader.diffusion.gradient import Window, no_gradient, window

N = 10
RNG = random.Random(0)


def steps(chosen: Window) -> list[int]:
    return [i for i in range(-1, N + 2) if i in chosen]


def test_last_is_the_last_step() -> None:
    assert steps(window("last", N)(RNG)) == [9]


@pytest.mark.parametrize(("k", "expected"), [(1, [9]), (3, [7, 8, 9]), (N, list(range(N)))])
def test_tail_is_the_last_k(k: int, expected: list[int]) -> None:
    assert steps(window("tail", N, k=k)(RNG)) == expected


@pytest.mark.parametrize(("start", "expected"), [(0, list(range(N))), (6, [6, 7, 8, 9]), (9, [9])])
def test_specific_is_from_a_step_to_the_end(start: int, expected: list[int]) -> None:
    assert steps(window("specific", N, from_step=start)(RNG)) == expected


def test_rand_is_a_tail_of_1_to_n_steps_each_as_likely() -> None:
    rng, draw = random.Random(1), window("rand", N)
    counts = Counter(N - draw(rng).start for _ in range(10_000))
    assert set(counts) == set(range(1, N + 1))
    assert all(abs(count - 1000) < 150 for count in counts.values())


def test_rand_is_decided_by_its_generator() -> None:
    draw = window("rand", 1000)
    assert [draw(random.Random(s)) for s in range(5)] == [draw(random.Random(s)) for s in range(5)]
    assert len({draw(random.Random(s)).start for s in range(5)}) > 1


@pytest.mark.parametrize("draw", [window("last", N), window("tail", N, k=3), window("specific", N, from_step=2)])
def test_other_modes_leave_the_generator_alone(draw: object) -> None:
    rng = random.Random(3)
    before = rng.getstate()
    draw(rng)  # type: ignore[operator]
    assert rng.getstate() == before


def test_a_window_ends_with_the_last_step() -> None:
    assert Window(4, N).last == 9


def test_original_ends_with_the_first_step_of_the_window() -> None:
    chosen = window("specific", N, from_step=4, original=True)(RNG)
    assert (chosen.original, chosen.last) == (True, 4)
    assert 4 in chosen


def test_a_generation_has_no_step_with_gradient_and_takes_all() -> None:
    assert steps(no_gradient(N)) == []
    assert no_gradient(N).last == 9


@pytest.mark.parametrize("arguments", [{"k": 0}, {"k": N + 1}, {"k": None}])
def test_tail_out_of_range_is_a_broken_promise(arguments: dict[str, int | None]) -> None:
    with pytest.raises(AssertionError):
        window("tail", N, **arguments)(RNG)


@pytest.mark.parametrize("start", [-1, N, None])
def test_specific_out_of_range_is_a_broken_promise(start: int | None) -> None:
    with pytest.raises(AssertionError):
        window("specific", N, from_step=start)(RNG)


def test_a_window_that_starts_after_its_end_is_a_broken_promise() -> None:
    with pytest.raises(AssertionError):
        Window(3, 2)
