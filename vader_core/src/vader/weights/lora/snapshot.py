"""Values of an adapter that are kept beside its present ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Snapshot:
    """Earlier values of parameters.

    Args:
        parameters: whose present values are kept, on their device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._kept = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Come nearer to the present values; with decay 0 they are taken exactly.

        Args:
            decay: what is kept of the earlier ones, 0 to 1.
        """
        for kept, parameter in zip(self._kept, self._parameters, strict=True):
            kept.lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The parameters have the kept values for as long as the context lasts. No graph that is yet to be walked
        backwards may have been made before it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for kept, parameter in zip(self._kept, self._parameters, strict=True):
            present = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(present)

    def state_dict(self) -> list[Tensor]:
        """The kept values."""
        return [tensor.cpu() for tensor in self._kept]

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """Take up what :meth:`state_dict` gave."""
        for kept, saved in zip(self._kept, state, strict=True):
            kept.copy_(saved)
