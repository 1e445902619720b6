"""A picture in parts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from vader.backbones.streaming.stage import Flow


class Crop:
    """A part of the picture with the cells around it that its pixels depend on."""

    def __init__(self, top: int, bottom: int, left: int, right: int, margin: int, scale: int) -> None:
        self.top, self.left = max(top - margin, 0), max(left - margin, 0)
        self.bottom, self.right = bottom + margin, right + margin
        self.inside = [
            slice((start - begin) * scale, (stop - begin) * scale)
            for start, stop, begin in ((top, bottom, self.top), (left, right, self.left))
        ]

    def take(self, tensor: Tensor) -> Tensor:
        """``(... h w)`` cells with their neighbours."""
        return tensor[..., self.top : self.bottom, self.left : self.right]

    def trim(self, pixels: Tensor) -> Tensor:
        """``(... h w)`` pixels without those of the neighbours."""
        return pixels[..., self.inside[0], self.inside[1]]


def parts(length: int, count: int) -> list[tuple[int, int]]:
    """A side in parts of about the same length; no more parts than cells."""
    count = min(count, length)
    edges = [index * length // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def joined(parts: Sequence[dict[int, Flow]], dim: int) -> dict[int, Flow]:
    """Parts that lie beside each other along ``dim``, as one, chunk by chunk."""
    return {t: (torch.cat([part[t][0] for part in parts], dim),) for t in parts[0]}
