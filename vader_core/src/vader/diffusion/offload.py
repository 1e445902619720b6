"""What autograd keeps for backward waits on the host, exactly as it is; it comes back when backward needs it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

LEAST = 2**25
"""Bytes of the smallest tensor that is worth the way: inputs of blocks are larger, what all blocks share is smaller."""
_Kept = Tensor | tuple[Tensor, torch.device]


def kept_on(host: torch.device | None) -> AbstractContextManager[object]:
    """What is kept for backward of the operations inside, and is large, is moved to a device; None leaves it.

    With layers that are recomputed in backward (block checkpointing) their inputs alone are kept, so these are moved,
    and what is recomputed is not. Around a recomputed call nothing is recomputed: its inside is kept, on the host.
    """
    if host is None or not torch.is_grad_enabled():
        return nullcontext()

    def pack(tensor: Tensor) -> _Kept:
        if isinstance(tensor, nn.Parameter) or tensor.nbytes < LEAST:
            return tensor
        if not tensor.is_cuda:
            return tensor.to(host, copy=True), tensor.device
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, device=host, pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True), tensor.device

    def unpack(kept: _Kept) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[0].to(kept[1], non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
