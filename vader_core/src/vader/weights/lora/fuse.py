"""Add a frozen adapter to the weights that it was made for, once: it then costs nothing, and nothing of it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vader.errors import WeightsError
from vader.weights.files import shown
from vader.weights.lora.adapter import Adapter
from vader.weights.lora.names import DOWN, UP

if TYPE_CHECKING:
    from torch import Tensor, nn


def fuse(denoiser: nn.Module, adapter: Adapter, scale: float, source: str) -> None:
    """Add an adapter's update to a denoiser's weights, summed in float32 and rounded once to their dtype.

    Args:
        denoiser: without adapters; changed in place.
        adapter: its factors, and differences of whole parameters.
        scale: of all that it changes.
        source: what the user calls it, for errors.

    Raises:
        WeightsError: it is for another model: the denoiser lacks a layer, or has it in another shape; or the denoiser's
            weights are quantised, or not there.
    """
    parameters = dict(denoiser.named_parameters())
    if any(_is_quantised(parameter) for parameter in parameters.values()):
        raise WeightsError(
            f"the frozen adapter {source!r} cannot be added to quantised weights. Set backbone.options.quantize to "
            "none, or remove it from backbone.frozen_adapters."
        )
    if not all(parameter.numel() for parameter in parameters.values()):
        raise WeightsError(
            f"the frozen adapter {source!r} cannot be added to weights that wait on the host. Set "
            "backbone.options.block_offload to keep, or remove it from backbone.frozen_adapters."
        )
    layers = [key.removesuffix(DOWN) for key in adapter.state if key.endswith(DOWN)]
    changed = [*(f"{layer}.weight" for layer in layers), *adapter.whole]
    _check(denoiser, source, "lacks", changed, [name for name in changed if name not in parameters])
    pairs = {f"{layer}.weight": (adapter.state[layer + UP], adapter.state[layer + DOWN]) for layer in layers}
    sizes = {name: len(up) * down[0].numel() for name, (up, down) in pairs.items()}
    sizes |= {name: update.numel() for name, update in adapter.whole.items()}
    reshaped = [name for name, size in sizes.items() if parameters[name].numel() != size]
    _check(denoiser, source, "has in another shape", changed, reshaped)
    for name, (up, down) in pairs.items():
        _add(parameters[name], up.float().flatten(1) @ down.float().flatten(1), scale * adapter.scale)
    for name, update in adapter.whole.items():
        _add(parameters[name], update, scale)


def _is_quantised(parameter: Tensor) -> bool:
    from torch import Tensor

    return not parameter.is_floating_point() or type(parameter.data) is not Tensor


def _add(parameter: Tensor, update: Tensor, factor: float) -> None:
    import torch

    wide = torch.promote_types(parameter.dtype, torch.float32)
    added = factor * update.to(parameter.device, wide).reshape(parameter.shape)
    with torch.no_grad():
        parameter.copy_(parameter.to(wide) + added)


def _check(denoiser: nn.Module, source: str, what: str, changed: Sequence[str], wrong: Sequence[str]) -> None:
    if wrong:
        raise WeightsError(
            f"the frozen adapter {source!r} is for another model than {type(denoiser).__name__}, which {what} "
            f"{len(wrong)} of the {len(changed)} parameters that it changes{shown(wrong)}."
        )
