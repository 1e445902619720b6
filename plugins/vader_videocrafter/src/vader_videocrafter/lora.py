"""VADER's published adapters for VideoCrafter: what ``torch.save`` made of peft's state dict, read and written.

The format holds no configuration: the rank is in the shapes, and ``lora_alpha`` is always 8.
``vader convert adapter --backbone videocrafter2`` writes such a file, or peft's layout from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vader import WeightsError
from vader.sdk import PICKLED, SAFETENSORS, load_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import AdapterSpec
    from vader_videocrafter.names import Names

ALPHA = 8.0
"""``lora_alpha`` of every published adapter: the reference leaves it at peft's default."""
TARGETS = ("to_q", "to_k", "to_v")
"""Layers that carry them, in the format's order."""
PREFIX = "base_model.model.model.diffusion_model."
_DOWN = ".lora_A.weight"
_FIX = "Expected a state dict of LoRA tensors, as VADER-VideoCrafter saves it."


def spec_of(path: Path) -> AdapterSpec | None:
    """Rank, alpha and target modules of a published adapter; None for a file or folder of another kind.

    Raises:
        vader.WeightsError: it cannot be read, or its tensors have different ranks.
    """
    from vader.sdk import AdapterSpec

    if not _may_be_published(path):
        return None
    downs = {name: tensor for name, tensor in _tensors(path).items() if name.endswith(_DOWN)}
    ranks = sorted({int(tensor.shape[0]) for tensor in downs.values()})
    if len(ranks) != 1:
        raise WeightsError(f"the adapter {str(path)!r} has tensors of ranks {ranks or 'none'}; expected one rank.")
    targets = sorted({name.removesuffix(_DOWN).rpartition(".")[2] for name in downs})
    return AdapterSpec(rank=ranks[0], alpha=ALPHA, target_modules=tuple(targets), init=str(path))


def read(path: Path, names: Names) -> dict[str, Tensor]:
    """A published adapter's tensors under our names, such as ``down_blocks.0....to_q.lora_A.weight``.

    Raises:
        vader.WeightsError: it cannot be read, or names layers that the denoiser does not have.
    """
    state = _tensors(path)
    found = {name: names.ours(name.removeprefix(PREFIX)) for name in state}
    strange = sorted(name for name, ours in found.items() if ours is None)
    if strange:
        raise WeightsError(
            f"the adapter {str(path)!r} is for another model: {len(strange)} of its {len(found)} tensors belong to no "
            f"layer of this denoiser (such as {strange[0]})."
        )
    return {str(ours): state[name] for name, ours in found.items()}


def published(state: Mapping[str, Tensor], alpha: float, names: Names) -> dict[str, Tensor]:
    """An adapter as the reference wants it: its names, in its order, scaled for an alpha of 8.

    Args:
        state: tensors by our names.
        alpha: the adapter's own; where it is 8 the tensors stay as they are.
        names: of the denoiser.

    Raises:
        vader.WeightsError: a tensor belongs to no layer that the reference puts an adapter on.
    """
    renamed: dict[str, Tensor] = {}
    for ours, tensor in state.items():
        theirs = names.theirs(ours)
        if theirs is None or theirs.split(".")[-3] not in TARGETS:
            raise WeightsError(
                f"{ours} has no place in VADER's format, which holds LoRA on {', '.join(TARGETS)} of a VideoCrafter "
                "denoiser. Export an adapter of backbone videocrafter2 with the default target_modules."
            )
        renamed[theirs] = tensor if alpha == ALPHA or theirs.endswith(_DOWN) else tensor * (alpha / ALPHA)

    def order(name: str) -> tuple[int, str, int, str]:
        attention, layer, half = name.split(".")[-4:-1]
        return names.place(name), attention, TARGETS.index(layer), half

    return {PREFIX + name: renamed[name] for name in sorted(renamed, key=order)}


def _may_be_published(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if path.suffix.lower() != SAFETENSORS or not path.is_file():
        return path.suffix.lower() in PICKLED
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.startswith(PREFIX) for name in file.keys())  # noqa: SIM118 (not a mapping)
    except SafetensorError:
        return False


def _tensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    from vader_videocrafter.checkpoint import tensors

    name = f"the adapter {str(path)!r}"
    if path.suffix.lower() == SAFETENSORS:
        state: dict[str, Tensor] = load_file(path)
        return state
    return tensors(load_pickled(path, name, _FIX), name)
