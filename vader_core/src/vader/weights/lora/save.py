"""Write adapters in peft's layout and in diffusers'."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vader.spec import AdapterSpec
from vader.weights.lora.names import DIFFUSERS_FILE, METADATA, NAME, PEFT_CONFIG, PEFT_FILE, PEFT_PREFIX, plain

_DIFFUSERS_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "peft_type")


def state_dict(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by plain name, such as ``blocks.0.attn1.to_q.lora_A.weight``, on the CPU."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {plain(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def save(denoiser: nn.Module, folder: Path, denoiser_name: str | None = None) -> None:
    """Write an adapter in peft's layout and, with ``denoiser_name``, in diffusers' as well.

    Args:
        denoiser: carries the adapter.
        folder: exists and is empty.
        denoiser_name: diffusers' name of the denoiser in its pipeline ("transformer", "unet"): then the folder also
            serves ``pipeline.load_lora_weights(folder)``.
    """
    _write(folder, state_dict(denoiser), denoiser.peft_config[NAME], denoiser_name)  # type: ignore[index]


def write(folder: Path, state: Mapping[str, Tensor], spec: AdapterSpec, denoiser_name: str | None = None) -> None:
    """Write an adapter that is on no denoiser; see :func:`save`.

    Args:
        folder: exists and is empty.
        state: tensors by plain name.
        spec: rank, alpha, and the target modules, which are needed.
        denoiser_name: see :func:`save`.
    """
    from peft import LoraConfig

    alpha, targets = spec.alpha or spec.rank, list(spec.target_modules or ())
    config = LoraConfig(
        r=spec.rank, lora_alpha=int(alpha) if alpha == int(alpha) else alpha, target_modules=targets, bias="none"
    )
    _write(folder, {name: tensor.contiguous() for name, tensor in state.items()}, config, denoiser_name)


def _write(folder: Path, state: Mapping[str, Tensor], peft_config: Any, denoiser_name: str | None) -> None:
    from safetensors.torch import save_file

    config = {key: _jsonable(value) for key, value in peft_config.to_dict().items()}
    own = {"format": "pt", METADATA: json.dumps(config, sort_keys=True)}  # a bare file keeps its alpha
    save_file({PEFT_PREFIX + name: tensor for name, tensor in state.items()}, folder / PEFT_FILE, own)
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if denoiser_name is not None:
        prefixed = {f"{denoiser_name}.{key}": value for key, value in config.items() if key in _DIFFUSERS_KEYS}
        metadata = {"format": "pt", METADATA: json.dumps(prefixed, sort_keys=True)}
        save_file(
            {f"{denoiser_name}.{name}": tensor for name, tensor in state.items()}, folder / DIFFUSERS_FILE, metadata
        )


def _jsonable(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return value.value if hasattr(value, "value") else value
