"""Where half precision is too narrow."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype where that is wider: sums over a clip lose too much in less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
