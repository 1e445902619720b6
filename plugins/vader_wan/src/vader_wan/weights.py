"""Finds, judges and loads the folder of a Wan pipeline. Every way it can fail is one ``vader.WeightsError``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import NoiseSchedule, WeightsError
from vader.weight_files import check_safetensors, first_line

if TYPE_CHECKING:
    import torch

FIX = (
    "Set `weights` to a Wan 2.1 text-to-video pipeline in diffusers' layout: a hub id such as "
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or a folder that "
    "`hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir FOLDER` has filled."
)
INDEX = "model_index.json"
MODULES = ("transformer", "text_encoder", "vae")
CONFIGS = {
    "transformer": "config.json",
    "text_encoder": "config.json",
    "vae": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Parts:
    """The loaded parts of a pipeline, on the CPU."""

    transformer: Any
    text_encoder: Any
    vae: Any
    tokenizer: Any
    schedule: NoiseSchedule


def locate(weights: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The local folder of a pipeline, judged; a hub id is downloaded, or taken from the hub's cache, first.

    Of a hub repository ``model_index.json`` alone is fetched and judged before the weights are.

    Args:
        weights: hub id or local folder; a folder that exists wins.
        revision: of the hub repository.
        variant: restricts the download to that variant's files.

    Raises:
        vader.WeightsError: if there is no such folder or repository, or it is not a Wan 2.1 text-to-video pipeline.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise WeightsError(f"{weights} is a local folder and has no revision {revision!r}; leave `revision` out.")
        _judge(folder, weights)
    elif folder.exists() or not _HUB_ID.fullmatch(weights):
        what = "is a file, not a folder" if folder.exists() else "is no folder here, nor a hub id (owner/name)"
        raise WeightsError(f"weights {weights!r} {what}. {FIX}")
    else:
        _judge(_download(weights, revision, [INDEX]), weights)
        folder = _download(weights, revision, _patterns(variant))
    for part, config in CONFIGS.items():
        if not (folder / part / config).is_file():
            raise WeightsError(f"{weights} has no {part}/{config}; expected the folders {', '.join(CONFIGS)}. {FIX}")
    return folder


def load(folder: Path, name: str, variant: str | None, dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder, on the CPU, from safetensors only.

    Args:
        folder: as :func:`locate` gives it.
        name: what the user calls it, for errors.
        variant: of the weight files.
        dtype: of the transformer and the text encoder; the VAE is loaded in float32.

    Raises:
        vader.WeightsError: if a file is missing, truncated or of another model.
    """
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    for part in MODULES:
        check_safetensors(folder / part, name, FIX)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise WeightsError(f"{name}: the tokenizer cannot be loaded: {first_line(error)}. {FIX}") from error
    return Parts(
        transformer=_module(WanTransformer3DModel, folder, "transformer", name, variant, dtype),
        text_encoder=_module(UMT5EncoderModel, folder, "text_encoder", name, variant, dtype),
        vae=_module(AutoencoderKLWan, folder, "vae", name, variant, torch.float32),
        tokenizer=tokenizer,
        schedule=schedule(_read(folder / "scheduler" / CONFIGS["scheduler"], name), name),
    )


def schedule(config: Mapping[str, Any], name: str) -> NoiseSchedule:
    """The noise schedule that a diffusers scheduler configuration means.

    Args:
        config: of a flow scheduler; ``flow_shift`` (UniPC, DPM-Solver) or ``shift`` (flow-match Euler) is the shift.
        name: what the user calls the weights, for errors.

    Raises:
        vader.WeightsError: if it is not a flow with a constant shift.
    """
    kind = config.get("prediction_type", "flow_prediction")
    if kind != "flow_prediction" or config.get("use_dynamic_shifting"):
        seen = f"prediction_type {kind!r}, use_dynamic_shifting {bool(config.get('use_dynamic_shifting'))}"
        raise WeightsError(f"{name}: scheduler says {seen}; expected 'flow_prediction' with a constant shift. {FIX}")
    return NoiseSchedule(
        prediction="flow",
        train_timesteps=int(config.get("num_train_timesteps", 1000)),
        shift=float(config.get("flow_shift", config.get("shift", 1.0))),
        config=dict(config),
    )


def temporal_factor(config: Any) -> int:
    """Frames per latent frame of an ``AutoencoderKLWan`` with this config; 1 when no level compresses time."""
    return int(2 ** sum(map(bool, config.temperal_downsample)))


def spatial_factor(config: Any) -> int:
    """Pixels per latent cell, in height and in width, of an ``AutoencoderKLWan`` with this config."""
    return int(2 ** (len(config.dim_mult) - 1)) * int(config.patch_size or 1)


def _judge(folder: Path, name: str) -> None:
    """``model_index.json`` describes a pipeline that this plugin can take apart."""
    index = _read(folder / INDEX, name)
    kind = index.get("_class_name")
    if kind != "WanPipeline":
        raise WeightsError(f"{name} is a {kind}; expected a WanPipeline (text-to-video). {FIX}")
    signs = {
        "transformer_2": any(index.get("transformer_2") or ()),
        "boundary_ratio": index.get("boundary_ratio") is not None,
        "expand_timesteps": bool(index.get("expand_timesteps")),
    }
    if any(signs.values()):
        found = ", ".join(sign for sign, present in signs.items() if present)
        raise WeightsError(f"{name} is a Wan 2.2 pipeline ({found} in {INDEX}); expected Wan 2.1, one denoiser. {FIX}")


def _download(weights: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(weights, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client's own errors and its transport's have no public base in common
        at = f" at revision {revision!r}" if revision else ""
        raise WeightsError(
            f"{weights} is no folder here, and the hub did not give it{at}: {first_line(error)}. Check the name and "
            f"the connection; without one, run `hf download {weights}` where there is, or set `weights` to a local "
            "folder. With HF_HUB_OFFLINE=1 only what is in the hub's cache is found."
        ) from error


def _patterns(variant: str | None) -> list[str]:
    files = f"*.{variant}*.safetensors" if variant else "*.safetensors"
    modules = [f"{part}/{pattern}" for part in MODULES for pattern in ("*.json", files)]
    return [INDEX, "scheduler/*.json", "tokenizer/*", *modules]


def _module(kind: Any, folder: Path, part: str, name: str, variant: str | None, dtype: torch.dtype) -> Any:
    """One network, with every weight from its files: none left at its random initialisation."""
    try:
        module, info = kind.from_pretrained(
            folder,
            subfolder=part,
            variant=variant,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise WeightsError(f"{name}: {part} cannot be loaded as {kind.__name__}: {first_line(error)}. {FIX}") from error
    if missing := sorted(map(str, info["missing_keys"])):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise WeightsError(f"{name}: {len(missing)} weights of {part} are not in its files ({shown}). {FIX}")
    return module


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{name} has no {path.name}, so it is not a pipeline in diffusers' layout. {FIX}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: {path.name} is not readable JSON: {first_line(error)}. {FIX}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{name}: {path.name} holds {type(data).__name__}; expected a JSON object. {FIX}")
    return data
