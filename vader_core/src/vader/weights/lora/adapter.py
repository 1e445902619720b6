"""An adapter as it is here, whatever its file was: one rank, one alpha, tensors by plain name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vader.errors import WeightsError
from vader.spec import AdapterSpec
from vader.weights.lora.names import DOWN, UP

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Adapter:
    """An adapter.

    Args:
        spec: rank, alpha, target modules, and where it came from.
        state: its tensors by plain name, such as ``blocks.0.attn1.to_q.lora_A.weight``.
        whole: differences of whole parameters, by the parameters' names; a LoRA that is trained has none.
    """

    spec: AdapterSpec
    state: Mapping[str, Tensor]
    whole: Mapping[str, Tensor]

    @property
    def scale(self) -> float:
        """Of the update: alpha / rank."""
        return (self.spec.alpha or self.spec.rank) / self.spec.rank


def uniform(
    down: Mapping[str, Tensor], up: Mapping[str, Tensor], alpha: Mapping[str, float], source: str
) -> tuple[int, float, dict[str, Tensor]]:
    """One rank and one alpha for layers that differ in both, by tensors that compute the same.

    Smaller ranks are filled up with zeros, which change nothing; where the scale is another than most layers', the
    second factor takes the difference, in float32.

    Args:
        down: first factors by layer, ``(rank in ...)``.
        up: second factors by layer, ``(out rank ...)``.
        alpha: by layer.
        source: what the user calls it, for errors.

    Returns:
        Rank, alpha and tensors by plain name.

    Raises:
        WeightsError: a pair of factors do not fit, or a number is not finite.
    """
    for layer, first in down.items():
        _judge(layer, first, up[layer], source)
    rank = max((len(first) for first in down.values()), default=1)
    scaled = {layer: alpha[layer] * rank / len(first) for layer, first in down.items()}
    common = Counter(scaled.values()).most_common(1)[0][0] if scaled else float(rank)
    state: dict[str, Tensor] = {}
    for layer, first in down.items():
        second = up[layer] if scaled[layer] == common else up[layer].float() * (scaled[layer] / common)
        state[layer + DOWN] = _filled(first, 0, rank)
        state[layer + UP] = _filled(second, 1, rank)
    return rank, common, state


def _judge(layer: str, down: Tensor, up: Tensor, source: str) -> None:
    """The factors of a layer fit each other, and are numbers."""
    if down.ndim < 2 or up.ndim < 2 or not 0 < len(down) == up.shape[1]:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise WeightsError(f"{source}: the factors of {layer} have shapes {shapes}, which do not fit. Copy it again.")
    for factor in (down, up):
        require_numbers(factor, layer, source)


def require_numbers(tensor: Tensor, name: str, source: str) -> None:
    """A tensor of an adapter holds finite real numbers.

    Raises:
        WeightsError: it does not.
    """
    if not tensor.is_floating_point():
        raise WeightsError(f"{source}: {name} is of {tensor.dtype}; expected floating-point numbers. Use another.")
    if not tensor.float().isfinite().all():
        raise WeightsError(f"{source}: {name} holds numbers that are not finite, so it is damaged. Use another.")


def _filled(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Zeros added along a dimension."""
    if tensor.shape[dim] == size:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = size
    filled = tensor.new_zeros(shape)
    filled.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return filled
