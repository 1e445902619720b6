"""Score heads: small perceptrons on CLIP image features, built from the shapes found in their own file."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vader import WeightsError
from vader_rewards.weights import shown, state

_WEIGHT = re.compile(r"layers\.(\d+)\.weight")


class Head(nn.Module):
    """Linear layers, an activation between them, and one for the output.

    Args:
        layers: in order; the last has one output.
        between: activation between layers.
        output: activation of the score.
    """

    def __init__(
        self, layers: list[nn.Linear], between: Literal["none", "relu"], output: Literal["none", "sigmoid"]
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._between, self._output = between, output

    @property
    def width(self) -> int:
        """Length of the features it takes."""
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        return first.in_features

    def forward(self, features: Tensor) -> Tensor:
        """``(n d)`` -> ``(n,)``."""
        for index, layer in enumerate(self.layers):
            if index and self._between == "relu":
                features = features.relu()
            features = layer(features)
        score = features.squeeze(1)
        return score.sigmoid() if self._output == "sigmoid" else score


def load_head(
    path: Path, between: Literal["none", "relu"], output: Literal["none", "sigmoid"], dtype: torch.dtype
) -> Head:
    """A head from its file, whatever its depth and widths.

    The published ``compression_reward.pt`` has four linear layers where its own class has five (REFERENCE.md, wrong 1),
    so the shapes in the file decide. Layers without weights are not in a file: ``between`` and ``output`` name them.

    Args:
        path: file with ``layers.N.weight`` and ``layers.N.bias``.
        between: activation between layers.
        output: activation of the score.
        dtype: of the weights.

    Raises:
        vader.WeightsError: if the file is damaged, or its layers do not follow one another to a single score.
    """
    tensors = state(path)
    order = sorted(int(match[1]) for match in map(_WEIGHT.fullmatch, tensors) if match)
    expected = {f"layers.{index}.{kind}" for index in order for kind in ("weight", "bias")}
    strange = sorted(expected ^ tensors.keys())
    if not order or strange:
        found = f"unlike names: {shown(strange)}" if strange else "no layers"
        raise WeightsError(f"{path} is no score head: {found}. Expected layers.N.weight and layers.N.bias alone.")
    matrices = [tensors[f"layers.{index}.weight"] for index in order]
    shapes = [tuple(matrix.shape) for matrix in matrices]
    chained = all(len(shape) == 2 for shape in shapes) and all(a[0] == b[1] for a, b in pairwise(shapes))
    if (
        not chained
        or shapes[-1][0] != 1
        or any(tensors[f"layers.{i}.bias"].shape != s[:1] for i, s in zip(order, shapes, strict=True))
    ):
        raise WeightsError(
            f"{path} is no score head: layers of shape {shapes} do not follow one another to a single score."
        )
    layers = []
    for index, matrix in zip(order, matrices, strict=True):
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], device="meta")
        filled = {"weight": matrix.to(dtype), "bias": tensors[f"layers.{index}.bias"].to(dtype)}
        layer.load_state_dict(filled, assign=True)
        layers.append(layer)
    return Head(layers, between, output).requires_grad_(False).eval()
