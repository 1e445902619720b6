"""LoRA files of VADER-Open-Sora: ``torch.save`` of peft's state dict, with neither rank nor alpha in it.

::

    python -m vader_opensora.lora import FILE.pt FOLDER
    python -m vader_opensora.lora export FOLDER FILE.pt

A folder is an adapter of vader: ``backbone.adapter.init`` takes it, and ``vader train`` writes it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vader import WeightsError
from vader.weight_files import PICKLED, load_pickled

if TYPE_CHECKING:
    from torch import Tensor

    from vader.spec import AdapterSpec

ALPHA = 8.0
"""VADER-Open-Sora leaves alpha at peft's default, so its updates are scaled by 8 / rank."""
LAYERS = ("qkv", "q_linear", "kv_linear")
"""Layers that it puts adapters on, in the network's order."""
_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_NAME = re.compile(rf"(spatial|temporal)_blocks\.\d+\.(cross_)?attn\.({'|'.join(LAYERS)})\.lora_[AB]\.weight")


def import_adapter(file: str | Path, folder: str | Path, alpha: float = ALPHA) -> Path:
    """Write a file of VADER-Open-Sora as an adapter folder in peft's layout. The rank is read from its tensors.

    Args:
        file: made by ``torch.save``; read with ``weights_only=True``.
        folder: created; files of the same names are overwritten.
        alpha: that it was trained with.

    Raises:
        vader.WeightsError: it cannot be read, or is no LoRA of Open-Sora.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    from vader.adapters import PEFT_FILE

    state = read(Path(file))
    rank, targets = _shape_of(state, file)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_file({_PREFIX + name: tensor for name, tensor in state.items()}, target / PEFT_FILE, {"format": "pt"})
    LoraConfig(r=rank, lora_alpha=_whole(alpha), target_modules=targets).save_pretrained(str(target))
    return target


def export_adapter(folder: str | Path, file: str | Path) -> Path:
    """Write an adapter as VADER-Open-Sora reads it.

    That program scales every update by 8 / rank; where the adapter's own alpha is another, its second half is
    multiplied by alpha / 8, which gives the same clips.

    Args:
        folder: an adapter of vader, or one safetensors file (whose alpha is then its rank).
        file: written under a temporary name and renamed.

    Raises:
        vader.WeightsError: there is no adapter, or it has layers that VADER-Open-Sora puts none on.
    """
    import torch

    from vader import adapters

    source, target = Path(folder).expanduser(), Path(file).expanduser()
    state, spec = adapters.read(source)[0], adapters.spec_of(source)
    _judge(list(state), source)
    factor = (spec.alpha or spec.rank) / ALPHA
    scaled = {
        _PREFIX + name: state[name] * factor if name.endswith(_UP) and factor != 1 else state[name]
        for name in sorted(state, key=_place)
    }
    temporary = target.with_name(f".{target.name}.partial")
    torch.save(scaled, temporary)
    temporary.replace(target)
    return target


def spec_of(path: Path) -> AdapterSpec | None:
    """Rank, alpha and target modules of a file of VADER-Open-Sora; None for another kind of file.

    Raises:
        vader.WeightsError: it cannot be read, or is no LoRA of Open-Sora.
    """
    from vader.spec import AdapterSpec

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


def _judge(names: Sequence[str], path: Path) -> None:
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


def _whole(alpha: float) -> int | float:
    """A number as peft writes it."""
    return int(alpha) if alpha == int(alpha) else alpha


def main() -> None:
    """Command line, see the module."""
    parser = argparse.ArgumentParser(prog="python -m vader_opensora.lora", description="LoRA files of VADER-Open-Sora.")
    commands = parser.add_subparsers(required=True, metavar="import|export")
    reader = commands.add_parser("import", help="FILE.pt to an adapter folder")
    reader.add_argument("source", type=Path, metavar="FILE")
    reader.add_argument("target", type=Path, metavar="FOLDER")
    reader.add_argument("--alpha", type=float, default=ALPHA, help="that it was trained with (default: %(default)s)")
    reader.set_defaults(run=lambda given: import_adapter(given.source, given.target, given.alpha))
    writer = commands.add_parser("export", help="an adapter folder to FILE.pt")
    writer.add_argument("source", type=Path, metavar="FOLDER")
    writer.add_argument("target", type=Path, metavar="FILE")
    writer.set_defaults(run=lambda given: export_adapter(given.source, given.target))
    arguments = parser.parse_args()
    try:
        print(f"wrote {arguments.run(arguments)}")
    except WeightsError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
