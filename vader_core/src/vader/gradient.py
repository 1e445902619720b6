"""The gradient window: which denoising steps carry gradient (VADER, arXiv 2407.08737, section 3.2; DRaFT-K,
arXiv 2309.17400; AlignProp, arXiv 2310.03739)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Window:
    """Steps ``start`` to ``stop - 1`` carry gradient. The rollout ends at ``stop``.

    Args:
        start: first step with gradient; equal to ``stop`` for none.
        stop: number of steps taken.
        original: decode the clean latents predicted at step ``start`` and go no further.
    """

    start: int
    stop: int
    original: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.stop, (self.start, self.stop)

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.stop

    @property
    def last(self) -> int:
        """The step whose output is decoded."""
        return self.start if self.original else self.stop - 1


def no_gradient(steps: int) -> Window:
    """The empty window of a generation."""
    return Window(steps, steps)


Draw = Callable[[random.Random], Window]


def window(
    mode: Literal["last", "rand", "specific", "tail"],
    steps: int,
    *,
    k: int | None = None,
    from_step: int | None = None,
    original: bool = False,
) -> Draw:
    """How a window is drawn for each micro-step.

    Args:
        mode: ``last`` is K = 1, ``tail`` the last k steps, ``rand`` the last K with K uniform in 1..steps, ``specific``
            from step index ``from_step`` to the end.
        steps: denoising steps N.
        k: for ``tail``, 1..steps.
        from_step: for ``specific``, 0..steps - 1.
        original: see :class:`Window`.

    Returns:
        A function from a random number generator to a :class:`Window`; only ``rand`` uses the generator.
    """

    def draw(rng: random.Random) -> Window:
        if mode == "rand":
            start = steps - rng.randint(1, steps)
        elif mode == "specific":
            assert from_step is not None
            assert 0 <= from_step < steps
            start = from_step
        else:
            length = 1 if mode == "last" else k
            assert length is not None
            assert 1 <= length <= steps
            start = steps - length
        return Window(start, steps, original)

    return draw
