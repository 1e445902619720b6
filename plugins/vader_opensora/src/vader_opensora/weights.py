"""Finds and loads the three parts of Open-Sora 1.2. Every way it can fail is one ``vader.WeightsError``."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import WeightsError
from vader.sdk import (
    check_safetensors,
    compare_shapes,
    first_line,
    hub_folder,
    is_hub_id,
    shapes_of,
    shown,
    unreadable,
    user_path,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vader_opensora.stdit3 import STDiT3
    from vader_opensora.vae import OpenSoraVAE

HUB = {
    "denoiser": "hpcai-tech/OpenSora-STDiT-v3",
    "vae": "hpcai-tech/OpenSora-VAE-v1.2",
    "text_encoder": "DeepFloyd/t5-v1_1-xxl",
}
"""Where the parts are, by the backbone's option."""
CONFIG = "config.json"
SAFE = "*.safetensors"
_KINDS = {"STDiT3": "denoiser", "VideoAutoencoderPipeline": "vae"}
_FIXED: Mapping[str, Sequence[Any]] = {
    "patch_size": ([1, 2, 2],),
    "qk_norm": (True,),
    "skip_y_embedder": (False,),
    "qk_norm_legacy": (False,),
}
"""Settings of STDiT3 that the published checkpoint has and that this network takes for granted."""


def locate(weights: str | None, named: Mapping[str, str | None]) -> dict[str, Path]:
    """The local folder of every part; a hub repository is downloaded, or taken from the hub's cache, first.

    Nothing is fetched before every name has been judged.

    Args:
        weights: local folder with a folder for each part; None for the hub's.
        named: for each part a local folder (one that exists wins) or a hub id ``owner/name``; None for ``weights``.

    Raises:
        vader.WeightsError: there is no such folder or repository, or it has no ``config.json`` or no weights.
    """
    names = {part: name or (str(Path(weights, part)) if weights else HUB[part]) for part, name in named.items()}
    for part, name in names.items():
        folder = user_path(name)
        if not folder.is_dir() and (folder.exists() or not is_hub_id(name)):
            what = "is a file, not a folder" if folder.exists() else "is no folder here, nor a hub id (owner/name)"
            raise WeightsError(f"{part} {name!r} {what}. {_fix(part)}")
    folders = {part: _folder(part, name) for part, name in names.items()}
    for part, folder in folders.items():
        missing = [] if (folder / CONFIG).is_file() else [CONFIG]
        if not any(next(folder.glob(pattern), None) for pattern in _patterns(part)):
            missing.append(SAFE)
        if missing:
            held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise WeightsError(f"{part} {names[part]!r} holds no {' and no '.join(missing)}, only {held}. {_fix(part)}")
    return folders


def _patterns(part: str) -> list[str]:
    """Weight files, the preferred kind first. T5's are pickles in the published repository."""
    return [SAFE, "pytorch_model*.bin"] if part == "text_encoder" else [SAFE]


def _fix(part: str) -> str:
    """Where to get a part."""
    filled = f"a folder that `hf download {HUB[part]} --local-dir FOLDER` has filled"
    return f"Set backbone.options.{part} to {HUB[part]}, or to {filled}."


def _folder(part: str, name: str) -> Path:
    """The local folder of a name that has been judged."""
    folder = user_path(name)
    if folder.is_dir():
        return folder
    for pattern in _patterns(part):
        folder = hub_folder(name, ["*.json", "*.model", pattern])
        if next(folder.glob(pattern), None):
            break
    return folder


def load_denoiser(folder: Path, dtype: torch.dtype) -> STDiT3:
    """STDiT3 on the CPU, its rotary frequencies in float32.

    Raises:
        vader.WeightsError: a file is missing, truncated or of another model.
    """
    import torch

    denoiser = empty_denoiser(config(folder, "denoiser"), folder)
    fill(denoiser, folder, "denoiser", {"": dtype, "rope.freqs": torch.float32})
    return denoiser


def empty_denoiser(config: Mapping[str, Any], folder: Path) -> STDiT3:
    """STDiT3 on the meta device.

    Args:
        config: as in its ``config.json``.
        folder: where that is, for errors.

    Raises:
        vader.WeightsError: it is of another model.
    """
    import inspect

    import torch

    from vader_opensora.stdit3 import STDiT3

    other = [f"{key} {config[key]!r}" for key, allowed in _FIXED.items() if config.get(key, allowed[0]) not in allowed]
    if other:
        raise WeightsError(f"{folder}: {', '.join(other)} in {CONFIG} is not Open-Sora 1.2's. {_fix('denoiser')}")
    known = inspect.signature(STDiT3.__init__).parameters
    with torch.device("meta"):
        denoiser: STDiT3 = _constructed(STDiT3, {key: value for key, value in config.items() if key in known}, folder)
    return denoiser


def load_vae(folder: Path) -> OpenSoraVAE:
    """The video autoencoder on the CPU, in float32.

    The published ``config.json`` says no sizes; one that has ``spatial`` or ``temporal`` changes those it names.

    Raises:
        vader.WeightsError: a file is missing, truncated or of another model.
    """
    import torch

    vae = empty_vae(config(folder, "vae"), folder)
    fill(vae, folder, "vae", {"": torch.float32})
    return vae


def empty_vae(config: Mapping[str, Any], folder: Path) -> OpenSoraVAE:
    """The video autoencoder on the meta device. Args and errors as of :func:`empty_denoiser`."""
    import torch

    from vader_opensora.vae import SPATIAL, OpenSoraVAE

    known = {key: config[key] for key in ("micro_frame_size", "shift", "scale") if key in config}
    sizes = {"spatial": {**SPATIAL, **config.get("spatial", {})}, "temporal": config.get("temporal", {})}
    with torch.device("meta"):
        vae: OpenSoraVAE = _constructed(OpenSoraVAE, {**known, **sizes}, folder)
    return vae


def load_text(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """T5's encoder on the CPU, and its tokenizer.

    Raises:
        vader.WeightsError: a file is missing, truncated or of another model.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    if next(folder.glob(SAFE), None):
        check_safetensors(folder, str(folder), _fix("text_encoder"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        encoder, info = T5EncoderModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except pickle.UnpicklingError as error:
        raise unreadable(folder, str(folder), "a model of transformers", error, _fix("text_encoder")) from error
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be loaded as T5: {first_line(error)}. {_fix('text_encoder')}") from error
    if tokenizer.unk_token_id in tokenizer("fox", add_special_tokens=False).input_ids:
        raise WeightsError(f"{folder} has no vocabulary: its tokenizer does not know 'fox'. {_fix('text_encoder')}")
    if missing := sorted(map(str, info["missing_keys"])):
        held = f"{len(missing)} weights are missing{shown(missing)}"
        raise WeightsError(f"{folder} is not whole: {held}. {_fix('text_encoder')}")
    return encoder, tokenizer


def fill(module: nn.Module, folder: Path, part: str, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give a module on the meta device its weights, one tensor after the other.

    Args:
        module: has exactly the names and shapes of the files.
        folder: holds safetensors files.
        part: for messages.
        dtypes: by tensor name; the empty name is for all others.

    Raises:
        vader.WeightsError: a file cannot be read, or names or shapes differ.
    """
    from safetensors import safe_open

    own = module.state_dict()
    state: dict[str, torch.Tensor] = {}
    for file in check_safetensors(folder, str(folder), _fix(part)):
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118
                state[key] = handle.get_tensor(key).to(dtypes.get(key, dtypes[""]))
    differ = compare_shapes(shapes_of(state), shapes_of(own))
    reshaped = [f"{key} {there}, expected {here}" for key, (there, here) in differ.reshaped.items()]
    found = {"missing": differ.missing, "unexpected": differ.unexpected, "of another shape": reshaped}
    wrong = [f"{len(keys)} weights are {what}{shown(keys)}" for what, keys in found.items() if keys]
    if wrong:
        raise WeightsError(f"{folder} is not the {part} of Open-Sora 1.2: {'; '.join(wrong)}. {_fix(part)}")
    module.load_state_dict(state, assign=True)


def _constructed(kind: Any, config: Mapping[str, Any], folder: Path) -> Any:
    try:
        return kind(**config)
    except (TypeError, ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"{folder}: no {kind.__name__} has this {CONFIG}: {first_line(error)}.") from error


def config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part.

    Raises:
        vader.WeightsError: it cannot be read, or is of another kind of model.
    """
    try:
        data = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / CONFIG} is not readable JSON: {first_line(error)}. {_fix(part)}") from error
    kind = data.get("model_type") if isinstance(data, dict) else None
    if part in _KINDS.values() and _KINDS.get(str(kind)) != part:
        expected = next(kind for kind, of in _KINDS.items() if of == part)
        raise WeightsError(f"{folder / CONFIG} says model_type {kind!r}; expected {expected!r}. {_fix(part)}")
    return dict(data)
