"""Noise in some steps alone: a stochastic sampler in a window, its deterministic self elsewhere (MixGRPO,
arXiv 2507.21802, section 3.2)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from vader.protocols import Prediction, Sampler, StepOutput

if TYPE_CHECKING:
    from torch import Tensor

    from vader.shapes import Latents


class PartlyNoisy:
    """Two samplers of the same timesteps as one.

    Args:
        noisy: takes the steps of the window.
        plain: takes the others.
        window: steps.
    """

    predictions: ClassVar[tuple[Prediction, ...]] = ()
    stochastic: ClassVar[bool] = True
    any_order: ClassVar[bool] = True

    def __init__(self, noisy: Sampler, plain: Sampler, window: Collection[int]) -> None:
        self._noisy, self._plain, self._window = noisy, plain, frozenset(window)
        self.timesteps: Tensor = plain.timesteps

    def step(self, model_output: Tensor, i: int, latents: Latents, noise: Tensor) -> StepOutput:
        """See :class:`vader.protocols.Sampler`."""
        sampler = self._noisy if i in self._window else self._plain
        return sampler.step(model_output, i, latents, noise)
