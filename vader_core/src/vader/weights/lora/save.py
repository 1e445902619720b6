"""Write adapters: a folder in peft's layout and diffusers', or one file in any format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vader.spec import AdapterSpec
from vader.weights.lora.adapter import Adapter
from vader.weights.lora.formats import FORMATS, LayerNames, keys
from vader.weights.lora.names import (
    DIFFUSERS_FILE,
    DIFFUSERS_FILE_2,
    DOWN,
    METADATA,
    NAME,
    PEFT_CONFIG,
    PEFT_FILE,
    PEFT_PREFIX,
    UP,
)
from vader.weights.tensor_file import save_tensors

_DIFFUSERS_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "peft_type")


def state_dict(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by plain name, such as ``blocks.0.attn1.to_q.lora_A.weight``, on the CPU."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {name.removeprefix(PEFT_PREFIX): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def save(denoiser: nn.Module, folder: Path, denoiser_name: str | None = None, experts: Sequence[str] = ()) -> None:
    """Write an adapter in peft's layout and, with ``denoiser_name``, in diffusers' as well.

    Args:
        denoiser: carries the adapter.
        folder: exists and is empty.
        denoiser_name: diffusers' name of the denoiser in its pipeline ("transformer", "unet"): then the folder also
            serves ``pipeline.load_lora_weights(folder)``.
        experts: names of the two denoisers that a router has, in diffusers' order; each gets a file of its own.
    """
    _write(folder, state_dict(denoiser), denoiser.peft_config[NAME], denoiser_name, experts)  # type: ignore[index]


def write(
    folder: Path,
    state: Mapping[str, Tensor],
    spec: AdapterSpec,
    denoiser_name: str | None = None,
    experts: Sequence[str] = (),
) -> None:
    """Write an adapter that is on no denoiser; see :func:`save`.

    Args:
        folder: exists and is empty.
        state: tensors by plain name.
        spec: rank, alpha, and the target modules, which are needed.
        denoiser_name: see :func:`save`.
        experts: see :func:`save`.
    """
    _write(
        folder,
        {name: tensor.contiguous() for name, tensor in state.items()},
        _peft_config(spec),
        denoiser_name,
        experts,
    )


def write_file(file: Path, adapter: Adapter, name: str, layers: LayerNames, denoiser_name: str | None = None) -> None:
    """Write an adapter as one file.

    Formats with keys for alpha get it; diffusers' has it in its metadata; in ComfyUI's, whose readers differ in what
    they make of alpha, it is the rank and the tensors take the scale, in float32.

    Args:
        file: to write.
        adapter: what to write.
        name: of the format, one of :data:`vader.weights.lora.formats.FORMATS` but peft.
        layers: published names of the denoiser's layers.
        denoiser_name: diffusers' name of the denoiser in its pipeline.

    Raises:
        WeightsError: a layer has no name in that format.
    """
    spec, scale = adapter.spec, adapter.scale
    prefix = f"{denoiser_name}." if name == "diffusers" and denoiser_name is not None else None
    metadata, folded = {"format": "pt"}, {}
    if name == "diffusers":
        config = {key: _jsonable(value) for key, value in _peft_config(spec).to_dict().items()}
        metadata[METADATA] = _prefixed(config, denoiser_name or "transformer")
    elif not FORMATS[name].alpha and scale != 1:
        folded = {key: tensor.float() * scale for key, tensor in adapter.state.items() if key.endswith(UP)}
    written = keys(adapter.state, name, layers, prefix)
    tensors = {written[key]: tensor.contiguous() for key, tensor in {**adapter.state, **folded}.items()}
    if FORMATS[name].alpha:
        import torch

        downs = [written[key].removesuffix(FORMATS[name].ends[0]) for key in written if key.endswith(DOWN)]
        tensors |= {f"{layer}.alpha": torch.tensor(float(spec.alpha or spec.rank)) for layer in downs}
    save_tensors(tensors, file, metadata)


def _peft_config(spec: AdapterSpec) -> Any:
    from peft import LoraConfig

    alpha, targets = spec.alpha or spec.rank, list(spec.target_modules or ())
    return LoraConfig(
        r=spec.rank, lora_alpha=int(alpha) if alpha == int(alpha) else alpha, target_modules=targets, bias="none"
    )


def _prefixed(config: Mapping[str, Any], denoiser_name: str) -> str:
    """The configuration as diffusers has it inside its files."""
    prefixed = {f"{denoiser_name}.{key}": value for key, value in config.items() if key in _DIFFUSERS_KEYS}
    return json.dumps(prefixed, sort_keys=True)


def _write(
    folder: Path,
    state: Mapping[str, Tensor],
    peft_config: Any,
    denoiser_name: str | None,
    experts: Sequence[str],
) -> None:
    config = {key: _jsonable(value) for key, value in peft_config.to_dict().items()}
    own = {"format": "pt", METADATA: json.dumps(config, sort_keys=True)}  # a bare file keeps its alpha
    save_tensors({PEFT_PREFIX + name: tensor for name, tensor in state.items()}, folder / PEFT_FILE, own)
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if denoiser_name is not None:
        metadata = {"format": "pt", METADATA: _prefixed(config, denoiser_name)}
        for file, expert in zip((DIFFUSERS_FILE, DIFFUSERS_FILE_2), experts or ("",), strict=False):
            start = f"{expert}." if expert else ""
            mine = {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
            if mine:
                save_tensors(
                    {f"{denoiser_name}.{name}": tensor for name, tensor in mine.items()}, folder / file, metadata
                )


def _jsonable(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return value.value if hasattr(value, "value") else value
