"""Two sets of named weights, compared by names and shapes: what is missing, what is unexpected, what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """How weights that were found differ from those that were expected; false when they do not. Names are sorted.

    Args:
        missing: expected and not found.
        unexpected: found and not expected.
        reshaped: found in another shape; name -> shape found, shape expected.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)


def compare_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Difference:
    """Compare shapes by name, as :func:`shapes_of` gives them."""
    both = sorted(found.keys() & expected.keys())
    return Difference(
        missing=tuple(sorted(expected.keys() - found.keys())),
        unexpected=tuple(sorted(found.keys() - expected.keys())),
        reshaped={name: (found[name], expected[name]) for name in both if found[name] != expected[name]},
    )


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
