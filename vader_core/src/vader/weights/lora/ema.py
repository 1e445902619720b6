"""A moving average of the adapter (Polyak and Juditsky 1992), which is steadier than its last value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of parameters.

    The decay of update ``t``, counted from 0, is ``min(decay, (1 + t) / (10 + t))``, so that the start weighs little.

    Args:
        parameters: whose average is kept, on their device.
        decay: between 0 and 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay, self._updates = list(parameters), decay, 0
        self._average = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take up the parameters' present values."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        for average, parameter in zip(self._average, self._parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters have their average's values for as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, parameter in zip(self._average, self._parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The average and how often it was updated."""
        return {"updates": self._updates, "average": [tensor.cpu() for tensor in self._average]}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Take up what :meth:`state_dict` gave."""
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int)
        assert isinstance(average, list)
        self._updates = updates
        for mine, saved in zip(self._average, average, strict=True):
            mine.copy_(saved)
