"""A moving average of the adapter (Polyak and Juditsky 1992), which is steadier than its last value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from vader.weights.lora.snapshot import Snapshot


class Average:
    """Exponential moving average of parameters.

    The decay of update ``t``, counted from 0, is ``min(decay, (1 + t) / (10 + t))``, so that the start weighs little.

    Args:
        parameters: whose average is kept, on their device.
        decay: between 0 and 1.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._average, self._decay, self._updates = Snapshot(parameters), decay, 0

    def update(self) -> None:
        """Take up the parameters' present values."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        self._average.follow(decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters have their average's values for as long as the context lasts."""
        with self._average.swapped_in():
            yield

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The average and how often it was updated."""
        return {"updates": self._updates, "average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Take up what :meth:`state_dict` gave."""
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int)
        assert isinstance(average, list)
        self._updates = updates
        self._average.load_state_dict(average)
