"""LoRA files from and to others: the reference's list format, and adapters of UNet and text encoder apart.

::

    vader convert adapter 450_unet.pt ADAPTER --backbone modelscope --weights FOLDER-OR-HUB-ID
    vader convert adapter ADAPTER back_unet.pt --backbone modelscope --weights FOLDER-OR-HUB-ID
    python -m vader_modelscope.lora split ADAPTER OUT

The reference saves a LoRA as a flat list ``[up, down, up, down, ...]`` over every linear and convolutional layer of the
UNet, in the order of its modules; ``output = base + up(down(input))``, which in peft's terms is alpha equal to rank.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import VaderError, WeightsError, sdk

if TYPE_CHECKING:
    from torch import Tensor, nn

_TEXT = "text_encoder."


def read(path: Path, backbone: Any, options: Any) -> tuple[sdk.AdapterSpec, dict[str, Tensor]]:
    """A LoRA in the reference's format: what it is, and its tensors by plain name.

    Its layers have no names, so they come from the configuration of the UNet that it was trained on; no weight of that
    is read. Layers with fewer channels than the rank have a smaller one; they are filled up with zeros, which changes
    nothing.

    Args:
        path: a ``*_unet.pt`` file.
        backbone: the backbone's class.
        options: its options, which name the pipeline that it was trained on.

    Raises:
        vader.WeightsError: the file is missing, truncated, of another kind or for another model.
    """
    pairs = _read_pairs(path)
    weights, layers = options.weights, _layers(backbone, options)
    if len(pairs) != len(layers):
        raise WeightsError(
            f"{str(path)!r} is for a model of {len(pairs)} layers; the UNet of {weights} has {len(layers)} linear and "
            "convolutional ones. Name the pipeline that it was trained on, and the file of the UNet (*_unet.pt)."
        )
    wrong = [_misfit(name, layer, *pair) for (name, layer), pair in zip(layers.items(), pairs, strict=True)]
    if any(wrong):
        shown = [text for text in wrong if text]
        raise WeightsError(
            f"{str(path)!r} does not fit the UNet of {weights}: {len(shown)} layers, such as {shown[0]}."
        )
    rank = max(down.shape[0] for _, down in pairs)
    state: dict[str, Tensor] = {}
    for name, (up, down) in zip(layers, pairs, strict=True):
        state[f"{name}.lora_A.weight"] = _filled(down, 0, rank)
        state[f"{name}.lora_B.weight"] = _filled(up, 1, rank)
    return sdk.AdapterSpec(rank=rank, alpha=rank, target_modules=tuple(layers), init=str(path)), state


def published(spec: sdk.AdapterSpec, state: Mapping[str, Tensor], backbone: Any, options: Any) -> list[Tensor]:
    """The list that the reference loads: of every layer ``up * alpha / rank`` and ``down``, zeros where there is none.

    Args:
        spec: of the adapter.
        state: its tensors, by plain name.
        backbone: the backbone's class.
        options: its options, which name the pipeline that it was trained on.

    Raises:
        vader.WeightsError: it has layers that are not the UNet's.
    """
    import torch

    layers, rank, found = _layers(backbone, options), spec.rank, dict(state)
    scale = (spec.alpha or rank) / rank
    made: list[Tensor] = []
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        ones = tuple(1 for _ in weight.shape[2:])
        down, up = found.pop(f"{name}.lora_A.weight", None), found.pop(f"{name}.lora_B.weight", None)
        if down is None or up is None:
            down, up = torch.zeros(rank, *weight.shape[1:]), torch.zeros(weight.shape[0], rank, *ones)
        made += [up.float() * scale, down.float()]
    if found:
        other = "; the text encoder's part is written apart by `python -m vader_modelscope.lora split`"
        raise WeightsError(
            f"{len(found)} tensors of the adapter are for no layer of the UNet of {options.weights}"
            f"{sdk.shown(list(found))}{other if any(name.startswith(_TEXT) for name in found) else ''}."
        )
    return made


def split(source: str | Path, output: str | Path) -> dict[str, Path]:
    """Write the UNet's part and the text encoder's part of an adapter as two peft adapters.

    ``PeftModel.from_pretrained(pipeline.unet, output / "unet")`` loads the one, and the other likewise.

    Args:
        source: adapter folder of a run with ``text_adapter``.
        output: folder, created if it is not there; ``unet`` and ``text_encoder`` are made in it.

    Returns:
        The folders made, by name; a part without tensors has none.

    Raises:
        vader.WeightsError: there is no peft adapter at ``source``.
    """
    adapter = sdk.read_adapter(sdk.user_path(source))
    state = adapter.state
    text = {name.removeprefix(_TEXT): tensor for name, tensor in state.items() if name.startswith(_TEXT)}
    unet = {name: tensor for name, tensor in state.items() if not name.startswith(_TEXT)}
    made = {}
    for part, tensors in (("unet", unet), ("text_encoder", text)):
        if not tensors:
            continue
        made[part] = sdk.user_path(output) / part
        made[part].mkdir(parents=True, exist_ok=True)
        targets = tuple(sorted({name.rpartition(".lora_")[0] for name in tensors}))
        spec = adapter.spec.model_copy(update={"target_modules": targets})
        sdk.write_adapter(made[part], tensors, spec)
    return made


def _read_pairs(path: Path) -> list[tuple[Tensor, Tensor]]:
    """``(up, down)`` of each layer, in float32.

    Raises:
        vader.WeightsError: it is not such a file.
    """
    import torch

    expected = "Expected a list [up, down, up, down, ...] of tensors, as the reference writes *_unet.pt."
    found = sdk.load_pickled(path, repr(str(path)), expected)
    if not isinstance(found, list) or not found or not all(isinstance(tensor, torch.Tensor) for tensor in found):
        raise WeightsError(f"{str(path)!r} holds {_what(found)}. {expected}")
    if len(found) % 2:
        raise WeightsError(f"{str(path)!r} holds {len(found)} tensors, an odd number. {expected}")
    tensors = [tensor.detach().float().contiguous() for tensor in found]
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _what(found: Any) -> str:
    inner = type(found[0]).__name__ if isinstance(found, Sequence) and found else "nothing"
    return f"a {type(found).__name__} of {inner}" if isinstance(found, Sequence) else f"a {type(found).__name__}"


def _layers(backbone: Any, options: Any) -> dict[str, nn.Module]:
    """The linear and convolutional layers of a pipeline's UNet, without weights, in the order of its modules."""
    import torch
    from torch import nn

    unet = sdk.Parts.outline(backbone.family, options).module("unet", torch.float32)
    return {name: layer for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv3d)}


def _misfit(name: str, layer: nn.Module, up: Tensor, down: Tensor) -> str | None:
    """Why a pair does not fit a layer, or None."""
    weight = layer.get_parameter("weight")
    out, rest, rank = weight.shape[0], tuple(weight.shape[1:]), down.shape[0]
    expected = (out, rank, *(1 for _ in weight.shape[2:])), (rank, *rest)
    if (tuple(up.shape), tuple(down.shape)) == expected:
        return None
    return f"{name}: up {tuple(up.shape)} and down {tuple(down.shape)}, expected {expected[0]} and {expected[1]}"


def _filled(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Zeros added along a dimension."""
    shape = list(tensor.shape)
    shape[dim] = size
    filled = tensor.new_zeros(shape)
    filled.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    return filled


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m vader_modelscope.lora split ADAPTER OUT``. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vader_modelscope.lora", description="An adapter in two.")
    command = parser.add_subparsers(required=True).add_parser(
        "split", help="an adapter into the UNet's and the text encoder's"
    )
    command.add_argument("source", help="adapter folder of a run with text_adapter")
    command.add_argument("output", help="folder to write")
    given = parser.parse_args(arguments)
    try:
        made = split(given.source, given.output).values()
    except VaderError as error:
        parser.exit(1, f"error: {error}\n")
    print("wrote " + ", ".join(map(str, made)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
