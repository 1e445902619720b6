"""The gradient window: which denoising steps carry gradient (VADER, arXiv 2407.08737, section 3.2; DRaFT-K,
arXiv 2309.17400; AlignProp, arXiv 2310.03739; DRTune, arXiv 2405.00760; ReFL, arXiv 2304.05977)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Mode = Literal["last", "rand", "specific", "tail", "uniform", "subset"]


@dataclass(frozen=True)
class Window:
    """Steps ``start`` to ``stop - 1`` carry gradient. The rollout ends at ``stop``.

    Args:
        start: first step with gradient; equal to ``stop`` for none.
        stop: number of steps taken.
        original: decode the clean latents predicted at step ``start`` and go no further.
        only: of these steps, those whose denoiser is differentiated; the others hand gradient on by the sampler's
            arithmetic alone. None: all of them.
        detach_input: the denoiser's input is cut from its graph, so that gradient flows back from step to step by the
            sampler's arithmetic alone (DRTune, arXiv 2405.00760, section 4.2).
    """

    start: int
    stop: int
    original: bool = False
    only: frozenset[int] | None = None
    detach_input: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.stop, (self.start, self.stop)
        assert self.only is None or min(self.only) == self.start, (self.start, self.only)

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.stop and (self.only is None or step in self.only)

    @property
    def last(self) -> int:
        """The step whose output is decoded."""
        return self.start if self.original else self.stop - 1

    @property
    def first_in_backward(self) -> int:
        """The last step whose denoiser is differentiated: the first that backward comes to. -1 for none."""
        return max((step for step in range(self.last + 1) if step in self), default=-1)

    @property
    def k(self) -> int:
        """How many denoiser steps are differentiated."""
        return sum(step in self for step in range(self.last + 1))


def no_gradient(steps: int) -> Window:
    """The empty window of a generation."""
    return Window(steps, steps)


Draw = Callable[[random.Random], Window]


def window(
    mode: Mode,
    steps: int,
    *,
    k: int | None = None,
    from_step: int | None = None,
    original: bool = False,
    detach_input: bool = False,
) -> Draw:
    """How a window is drawn for each micro-step.

    Args:
        mode: ``last`` is K = 1, ``tail`` the last k steps, ``rand`` the last K with K uniform in 1..steps (in 1..k when
            k is given), ``specific`` from step index ``from_step`` to the end, ``uniform`` k steps at even distances
            from an offset drawn at random, ``subset`` k different steps drawn at random.
        steps: denoising steps N.
        k: for ``tail``, ``uniform`` and ``subset``, 1..steps; may be given for ``rand``.
        from_step: for ``specific``, 0..steps - 1.
        original: see :class:`Window`.
        detach_input: see :class:`Window`.

    Returns:
        A function from a random number generator to a :class:`Window`; ``rand``, ``uniform`` and ``subset`` use it.
    """
    assert k is None or 1 <= k <= steps, (k, steps)

    def scattered(chosen: list[int]) -> Window:
        return Window(min(chosen), steps, original, frozenset(chosen), detach_input)

    def tail(length: int) -> Window:
        return Window(steps - length, steps, original, None, detach_input)

    def draw(rng: random.Random) -> Window:
        if mode == "rand":
            return tail(rng.randint(1, k or steps))
        if mode == "specific":
            assert from_step is not None
            assert 0 <= from_step < steps
            return tail(steps - from_step)
        if mode == "last":
            return tail(1)
        assert k is not None
        if mode == "tail":
            return tail(k)
        if mode == "subset":
            return scattered(rng.sample(range(steps), k))
        distance = steps // k
        offset = rng.randrange(steps - distance * (k - 1))
        return scattered([offset + distance * index for index in range(k)])

    return draw
