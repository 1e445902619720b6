"""Read adapters, and put their tensors where they belong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vader.errors import WeightsError
from vader.spec import AdapterSpec
from vader.weights.compare import compare_shapes, shapes_of
from vader.weights.files import first_line, shown
from vader.weights.lora import peft_config
from vader.weights.lora.adapter import Adapter, require_numbers, uniform
from vader.weights.lora.formats import Found, LayerNames, parse
from vader.weights.lora.names import DIFFUSERS_FILE, METADATA, NAME, PEFT_CONFIG, PEFT_FILE
from vader.weights.sealed import check_file


def locate(path: Path) -> Path:
    """The file that holds an adapter's tensors; with its configuration it is what a manifest beside it says.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    files = [path / PEFT_FILE, path / DIFFUSERS_FILE] if path.is_dir() else [path]
    file = next((candidate for candidate in files if candidate.is_file()), None)
    if file is None or file.suffix != ".safetensors":
        raise WeightsError(
            f"no adapter at {str(path)!r}. Expected a folder with {PEFT_FILE} or {DIFFUSERS_FILE}, "
            "or a .safetensors file. `vader convert adapter` makes one of a backbone's other formats."
        )
    for one in (file, file.with_name(PEFT_CONFIG)):
        check_file(one)
    return file


def read(path: Path, layers: LayerNames = MappingProxyType({})) -> Adapter:
    """An adapter, in whatever format of :data:`vader.weights.lora.formats.FORMATS` its file is.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.
        layers: published names of the denoiser's layers; formats that use them need it.

    Raises:
        WeightsError: nothing there, not a safetensors file, or no LoRA that is taken.
    """
    file = locate(path)
    source = repr(str(file))
    tensors, metadata = _opened(file)
    found = parse(tensors, layers, source)
    ranks = {layer: len(first) if first.ndim else 0 for layer, first in found.down.items()}
    config, where = _config(file, metadata, found)
    alpha, targets = {layer: found.alpha.get(layer, rank or 1) for layer, rank in ranks.items()}, None
    if config is not None:
        alpha, targets = peft_config.alphas(config, ranks, where), peft_config.targets(config, list(ranks))
    wrong = [layer for layer, value in alpha.items() if not peft_config.is_alpha(value)]
    if wrong:
        raise WeightsError(f"{source}: alpha of {len(wrong)} layers is no number above 0{shown(wrong)}. Use another.")
    for name, tensor in found.whole.items():
        require_numbers(tensor, name, source)
    rank, common, state = uniform(found.down, found.up, alpha, source)
    spec = AdapterSpec(rank=rank, alpha=common, target_modules=targets or tuple(sorted(ranks)) or None, init=str(path))
    return Adapter(spec, state, found.whole)


def _opened(file: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            return tensors, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{str(file)!r} is not a readable safetensors file ({error}). Copy or download it again."
        ) from error


def _config(file: Path, metadata: Mapping[str, str], found: Found) -> tuple[Mapping[str, Any] | None, str]:
    """peft's configuration, judged, and what to call it; None without one, and where the keys say alpha themselves.

    One beside the file is of a file in peft's format alone; one inside has, if it is diffusers', the denoiser's name
    before each key.
    """
    beside, where = file.with_name(PEFT_CONFIG), f"{METADATA} in {str(file)!r}"
    own = found.format in ("peft", None) and beside.is_file()
    if found.alpha or not (own or METADATA in metadata):
        return None, ""
    try:
        config = json.loads(beside.read_text(encoding="utf-8") if own else metadata[METADATA])
    except (ValueError, OSError, RecursionError) as error:
        raise WeightsError(
            f"{str(beside) if own else where} describes no LoRA adapter of peft ({first_line(error)}). Copy it again."
        ) from error
    if not own and isinstance(config, dict):
        config = {key.rsplit(".", 1)[-1]: value for key, value in config.items()}
    where = repr(str(beside)) if own else where
    return peft_config.judged(config, where), where


def load_into(denoiser: nn.Module, path: Path) -> None:
    """Load an adapter's tensors into one injected with the same shape.

    Raises:
        WeightsError: names or shapes differ: another model, another rank or other target modules.
    """
    restore(denoiser, read(path).state, str(path))


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


def spec_of(path: Path, layers: LayerNames = MappingProxyType({})) -> AdapterSpec:
    """The shape of a saved adapter: rank, alpha and target modules.

    Raises:
        WeightsError: see :func:`read`; or it changes whole parameters, which no adapter that is trained does.
    """
    return trainable(read(path, layers), path).spec


def trainable(adapter: Adapter, path: Path) -> Adapter:
    """An adapter that is factors alone.

    Raises:
        WeightsError: if it is not.
    """
    if adapter.whole:
        raise WeightsError(
            f"{str(path)!r} changes {len(adapter.whole)} whole biases or norms{shown(list(adapter.whole))} besides "
            "LoRA's factors. Give it as one of backbone.frozen_adapters, which takes them."
        )
    return adapter
