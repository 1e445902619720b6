"""Read adapters in peft's layout and in diffusers', and put their tensors where they belong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader.errors import WeightsError
from vader.spec import AdapterSpec
from vader.weights.compare import compare_shapes, shapes_of
from vader.weights.lora.names import DIFFUSERS_FILE, METADATA, NAME, PEFT_CONFIG, PEFT_FILE, plain


def locate(path: Path) -> Path:
    """The file that holds an adapter's tensors.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.

    Raises:
        WeightsError: there is none.
    """
    files = [path / PEFT_FILE, path / DIFFUSERS_FILE] if path.is_dir() else [path]
    file = next((candidate for candidate in files if candidate.is_file()), None)
    if file is None or file.suffix != ".safetensors":
        raise WeightsError(
            f"no adapter at {str(path)!r}. Expected a folder with {PEFT_FILE} or {DIFFUSERS_FILE}, "
            "or a .safetensors file. `vader convert adapter` makes one of a backbone's other formats."
        )
    return file


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """An adapter's tensors by plain name, and its peft configuration when there is one beside them.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.

    Raises:
        WeightsError: nothing there, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    file = locate(path)
    try:
        state = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{str(file)!r} is not a readable safetensors file ({error}). Copy or download it again."
        ) from error
    config_file = file.with_name(PEFT_CONFIG)
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else _embedded(metadata)
        if config is not None:
            _ = config["r"], config["lora_alpha"], config["target_modules"]
    except (ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{str(config_file)!r} describes no LoRA adapter of peft ({error!r}). Copy it again."
        ) from error
    return {plain(name): tensor for name, tensor in state.items()}, config


def _embedded(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The peft configuration inside a file: ours plain, diffusers' with the denoiser's name before each key."""
    if METADATA not in metadata:
        return None
    return {key.rsplit(".", 1)[-1]: value for key, value in json.loads(metadata[METADATA]).items()}


def load_into(denoiser: nn.Module, path: Path) -> None:
    """Load an adapter's tensors into one injected with the same shape.

    Raises:
        WeightsError: names or shapes differ: another model, another rank or other target modules.
    """
    restore(denoiser, read(path)[0], str(path))


def restore(denoiser: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy an adapter's tensors into place, exactly.

    Raises:
        WeightsError: names or shapes differ.
    """
    own = {_own_name(name): parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    differ = compare_shapes(shapes_of(state), shapes_of(own))
    if differ:
        wrong = [f"{name}: {found} there, {here} here" for name, (found, here) in differ.reshaped.items()]
        raise WeightsError(
            f"the adapter {source!r} is for another model, rank or set of target modules: {len(differ.missing)} "
            f"tensors are missing{_some(differ.missing)}, {len(differ.unexpected)} are unexpected"
            f"{_some(differ.unexpected)}, {len(wrong)} have another shape{_some(wrong)}. Set backbone.adapter.rank and "
            "target_modules as they were when it was trained."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _own_name(name: str) -> str:
    return name.replace(f".{NAME}.", ".")


def _some(names: Sequence[str]) -> str:
    return f" (such as {names[0]})" if names else ""


def spec_of(path: Path) -> AdapterSpec:
    """The shape of a saved adapter: rank, alpha and target modules, from its configuration or from its tensors.

    Raises:
        WeightsError: see :func:`read`.
    """
    state, config = read(path)
    if config is not None:
        return AdapterSpec(
            rank=config["r"], alpha=config["lora_alpha"], target_modules=tuple(config["target_modules"]), init=str(path)
        )
    downs = {name: tensor for name, tensor in state.items() if name.endswith(".lora_A.weight")}
    if not downs:
        raise WeightsError(f"{str(path)!r} holds no LoRA tensors (names ending in lora_A.weight).")
    rank = int(next(iter(downs.values())).shape[0])
    targets = tuple(sorted(name.removesuffix(".lora_A.weight") for name in downs))
    return AdapterSpec(rank=rank, target_modules=targets, init=str(path))
