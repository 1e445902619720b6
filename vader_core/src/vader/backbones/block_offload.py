"""A denoiser whose frozen weights wait on the host; each block fetches its own when it runs, in backward too."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from vader.backbones.experts import Shelf
from vader.backbones.kernels import blocks_of
from vader.errors import Problem, SpecError
from vader.weights.meta_init import Place


def offload_blocks(denoiser: nn.Module, device: torch.device, place: Place) -> nn.Module:
    """Put the frozen weights of the blocks that repeat on shelves, in place; adapters come later and stay.

    What autograd keeps of a block holds its weights on the device until backward has passed it: with the blocks
    recomputed in backward that is one block at a time.

    Args:
        denoiser: on the host, without an adapter.
        device: of the run.
        place: puts a module on a device.

    Returns:
        The shelves.

    Raises:
        SpecError: the denoiser does not say which blocks repeat.
    """
    found = blocks_of(denoiser)
    inner = {part for block in found for part in block.modules() if part is not block}
    blocks = [block for block in found if block not in inner]
    if not blocks:
        message = f"{type(denoiser).__name__} does not say which of its blocks repeat. Set it to keep."
        raise SpecError([Problem("backbone.options.block_offload", message)])
    shelves = nn.ModuleList(Shelf(block, device) for block in blocks)
    for block, shelf in zip(blocks, shelves, strict=True):
        block.register_forward_pre_hook(partial(_fetch, shelf))
        block.register_forward_hook(
            partial(_put_back, shelf), always_call=True
        )  # recomputation may end by an exception
    return place(shelves, "cpu")  # type: ignore[no-any-return]


def _fetch(shelf: Any, *_: Any) -> None:
    shelf.fetch()


def _put_back(shelf: Any, *_: Any) -> None:
    shelf.put_back()
