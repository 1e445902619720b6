"""The published layouts of VideoReward: a LoRA pair on Qwen2-VL, or everything in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vader import WeightsError
from vader.sdk import shown
from vader_rewards import weights

CONFIG, WHOLE, ADAPTER, REST = "model_config.json", "model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth"
PATTERNS = (f"checkpoint-*/{WHOLE}", "checkpoint-*/[an]*")
"""Of the files of either layout on the hub."""
DIMENSIONS = ("VQ", "MQ", "TA")
_PREFIX, _HEAD, _EMBEDDING = "base_model.model.", "rm_head.", "model.embed_tokens.weight"
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_FIX = "Fetch it again with `hf download KwaiVGI/VideoReward`."


@dataclass(frozen=True)
class Settings:
    """What ``model_config.json`` says.

    Args:
        base: hub id or folder of the network that it is built on.
        fps: frames a second that are looked at.
        num_frames: frames altogether; None to go by ``fps``.
        max_pixels: of a frame.
        rank: of the adapter.
        scale: of its update.
        mean: of each dimension's raw score.
        std: its spread; both None where the file does not tell, and scores stay raw.
    """

    base: str
    fps: float | None
    num_frames: int | None
    max_pixels: int
    rank: int
    scale: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @classmethod
    def read(cls, source: Path, name: str) -> Settings:
        """From a folder.

        Raises:
            vader.WeightsError: the file is missing, or tells of another kind of reward model.
        """
        found = weights.configuration(source, name, CONFIG)
        try:
            data, model, lora = (found[part] for part in ("data_config", "model_config", "peft_lora_config"))
            _trained_so(data, model, name)
            rank = int(lora["lora_r"])
            spread = math.sqrt(rank) if lora.get("use_rslora") else rank
            inference = found.get("inference_config")
            mean, std = (
                tuple(float(inference[f"{each}_{what}"]) for each in DIMENSIONS) if inference else None
                for what in ("mean", "std")
            )
            return cls(
                model["model_name_or_path"],
                data.get("fps"),
                data.get("num_frames"),
                int(data["max_frame_pixels"]),
                rank,
                lora["lora_alpha"] / spread,
                mean,
                std,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{name}: {CONFIG} lacks {error}; expected that of VideoReward. {_FIX}") from error


def _trained_so(data: Mapping[str, Any], model: Mapping[str, Any], name: str) -> None:
    """The only way of asking that is known here.

    Raises:
        vader.WeightsError: it was trained in another.
    """
    asked = {
        "data_config.prompt_template_type": (data.get("prompt_template_type"), "detailed_special"),
        "data_config.sample_type": (data.get("sample_type", "uniform"), "uniform"),
        "model_config.use_special_tokens": (model.get("use_special_tokens"), True),
    }
    for field, (found, wanted) in asked.items():
        if found != wanted:
            raise WeightsError(f"{name}: {CONFIG} has {field} {found!r}; expected {wanted!r}, as published.")


def checkpoint(source: Path, name: str, step: int | None) -> Path:
    """The folder ``checkpoint-<step>``, that of the last step when none is named.

    Raises:
        vader.WeightsError: there is none, or not that one.
    """
    found = {int(path.name.partition("-")[2]): path for path in source.glob("checkpoint-*") if _numbered(path)}
    if not found:
        raise WeightsError(f"{name} has no folder checkpoint-<step>. {_FIX}")
    if step is not None and step not in found:
        have = ", ".join(map(str, sorted(found)))
        raise WeightsError(f"`checkpoint: {step}`: {name} has none of that step; it has {have}.")
    return found[max(found) if step is None else step]


def _numbered(path: Path) -> bool:
    return path.is_dir() and path.name.partition("-")[2].isdigit()


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint needs no weights of the base model."""
    return (folder / WHOLE).is_file()


def read(folder: Path, base: Path, settings: Settings) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the tower and of the score head, the adapter merged in float32; names are the published ones.

    Args:
        folder: of the checkpoint.
        base: folder of the base model, whose language layers a LoRA pair needs.
        settings: of the model.

    Raises:
        vader.WeightsError: a file is missing or damaged, or the adapter does not fit.
    """
    if is_whole(folder):
        found = _plain(weights.state(folder / WHOLE))
    else:
        for file in (ADAPTER, REST):
            if not (folder / file).is_file():
                raise WeightsError(f"{folder} has neither {WHOLE} nor the pair {ADAPTER}, {REST}: no {file}. {_FIX}")
        found = {**_language(base), **_plain(weights.state(folder / ADAPTER)), **_plain(weights.state(folder / REST))}
    loras = {name: found.pop(name) for name in [*found] if _LORA.fullmatch(name)}
    _merge(found, loras, settings, folder)
    found.pop("lm_head.weight", None)  # tied to the embedding, and never asked
    head = {name.removeprefix(_HEAD): found.pop(name) for name in [*found] if name.startswith(_HEAD)}
    return found, head


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what peft puts around names."""
    return {name.removeprefix(_PREFIX).replace(".base_layer.", "."): tensor for name, tensor in tensors.items()}


def _language(base: Path) -> dict[str, Tensor]:
    """The base model's language layers by their published names; the embedding is never the base model's."""
    from safetensors import safe_open

    weights.check_folder(base, str(base))
    found: dict[str, Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, framework="pt") as held:
            for key in held.keys():  # noqa: SIM118 (no mapping)
                name = key.replace("model.language_model.", "model.")
                if name.startswith("model.") and not name.startswith("model.visual.") and name != _EMBEDDING:
                    found[name] = held.get_tensor(key)
    if not found:
        raise WeightsError(
            f"`base: {base}` has no weights of language layers, which a LoRA pair needs. Fetch them with "
            "`hf download Qwen/Qwen2-VL-2B-Instruct`."
        )
    return found


def _merge(found: dict[str, Tensor], loras: Mapping[str, Tensor], settings: Settings, folder: Path) -> None:
    """Add ``scale B A`` to the layers that have an adapter."""
    layers = sorted({match[1] for name in loras if (match := _LORA.fullmatch(name))})
    halves = {(match[1], match[2]): tensor for name, tensor in loras.items() if (match := _LORA.fullmatch(name))}
    missing = [f"{layer}.lora_{half}" for layer in layers for half in "AB" if (layer, half) not in halves]
    missing += [f"{layer}.weight" for layer in layers if f"{layer}.weight" not in found]
    if missing:
        raise WeightsError(f"{folder} does not hold the weights of VideoReward: missing{shown(missing)}.")
    for layer in layers:
        a, b, weight = halves[layer, "A"], halves[layer, "B"], found[f"{layer}.weight"]
        wanted = (settings.rank, weight.shape[1]), (weight.shape[0], settings.rank)
        if (tuple(a.shape), tuple(b.shape)) != wanted:
            raise WeightsError(
                f"{folder}: the adapter of {layer} has shapes {tuple(a.shape)} and {tuple(b.shape)}, expected "
                f"{wanted[0]} and {wanted[1]} for lora_r {settings.rank} of {CONFIG}."
            )
        found[f"{layer}.weight"] = weight.float() + settings.scale * (b.float() @ a.float())
