"""LoRA files of VADER-Open-Sora: ``torch.save`` of peft's state dict, with neither rank nor alpha in it.

``vader convert adapter --backbone opensora`` writes such a file, or peft's layout from one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vader import WeightsError
from vader.sdk import PICKLED, load_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import AdapterSpec

ALPHA = 8.0
"""VADER-Open-Sora leaves alpha at peft's default, so its updates are scaled by 8 / rank."""
LAYERS = ("qkv", "q_linear", "kv_linear")
"""Layers that it puts adapters on, in the network's order."""
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_NAME = re.compile(rf"(spatial|temporal)_blocks\.\d+\.(cross_)?attn\.({'|'.join(LAYERS)})\.lora_[AB]\.weight")


def spec_of(path: Path) -> AdapterSpec | None:
    """Rank, alpha and target modules of a file of VADER-Open-Sora; None for another kind of file.

    Raises:
        vader.WeightsError: it cannot be read, or is no LoRA of Open-Sora.
    """
    from vader.sdk import AdapterSpec

    if path.suffix.lower() not in PICKLED:
        return None
    rank, targets = _shape_of(read(path), path)
    return AdapterSpec(rank=rank, alpha=ALPHA, target_modules=tuple(targets), init=str(path))


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of VADER-Open-Sora, such as ``spatial_blocks.0.attn.qkv.lora_A.weight``.

    Raises:
        vader.WeightsError: it cannot be read, or is no LoRA of Open-Sora.
    """
    import torch

    state = load_pickled(path, repr(str(path)), "Expected what VADER-Open-Sora saves, a dictionary of tensors.")
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not tensors or not state:
        raise WeightsError(f"{str(path)!r} holds no dictionary of tensors, so it is no LoRA of VADER-Open-Sora.")
    plain = {str(name).removeprefix(_PREFIX): tensor.contiguous() for name, tensor in state.items()}
    _judge(list(plain), path)
    return plain


def published(spec: AdapterSpec, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter as VADER-Open-Sora reads it: its names, in the network's order.

    That program scales every update by 8 / rank; where the adapter's own alpha is another, its second half is
    multiplied by alpha / 8, which gives the same clips.

    Args:
        spec: rank and alpha.
        state: tensors by plain name.

    Raises:
        vader.WeightsError: it has layers that VADER-Open-Sora puts none on.
    """
    _judge(list(state), spec.init or "the adapter")
    factor = (spec.alpha or spec.rank) / ALPHA
    return {
        _PREFIX + name: state[name] * factor if name.endswith(_UP) and factor != 1 else state[name]
        for name in sorted(state, key=_place)
    }


def _judge(names: Sequence[str], path: str | Path) -> None:
    """Every name is of a layer on which VADER-Open-Sora puts an adapter.

    Raises:
        vader.WeightsError: if not.
    """
    strange = [name for name in names if not _NAME.fullmatch(name)]
    if strange:
        raise WeightsError(
            f"{str(path)!r} is no LoRA of VADER-Open-Sora: {len(strange)} of its {len(names)} tensors are of other "
            f"layers (such as {strange[0]}). Expected {', '.join(LAYERS)} of spatial_blocks and temporal_blocks."
        )


def _shape_of(state: Mapping[str, Tensor], path: str | Path) -> tuple[int, list[str]]:
    """Rank and target modules."""
    ranks = sorted({int(tensor.shape[0]) for name, tensor in state.items() if name.endswith(_DOWN)})
    if len(ranks) != 1:
        raise WeightsError(f"{str(path)!r} has layers of ranks {ranks}; expected one rank in the whole file.")
    found = {name.split(".")[-3] for name in state}
    return ranks[0], [layer for layer in LAYERS if layer in found]


def _place(name: str) -> tuple[str, int, int, str]:
    """Sorts names as the network has them."""
    blocks, number, _, layer, half, _ = name.split(".")
    return blocks, int(number), LAYERS.index(layer), half
