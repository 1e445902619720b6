"""Finds, judges and loads the folder of a ModelScope pipeline. Every way it can fail is one ``vader.WeightsError``."""

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

    from vader.protocols import Prediction

HUB = "ali-vilab/text-to-video-ms-1.7b"
FIX = (
    f"Set `weights` to a ModelScope text-to-video pipeline in diffusers' layout: a hub id such as {HUB}, or a folder "
    f"that `hf download {HUB} --local-dir FOLDER` has filled."
)
PIPELINE = "TextToVideoSDPipeline"
INDEX = "model_index.json"
MODULES = ("unet", "text_encoder", "vae")
CONFIGS = {
    **dict.fromkeys(MODULES, "config.json"),
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
TINY_ALPHA = 2.0**-24
"""In place of an exact zero, at which every solver divides by zero; diffusers' multistep solvers use it likewise."""
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Parts:
    """The loaded parts of a pipeline, on the CPU."""

    unet: Any
    text_encoder: Any
    vae: Any
    tokenizer: Any


def locate(weights: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The local folder of a pipeline, judged; a hub id is downloaded, or taken from the hub's cache, first.

    Of a hub repository the index and the configurations alone are fetched and judged before the weights are.

    Args:
        weights: hub id or local folder; a folder that exists wins.
        revision: of the hub repository.
        variant: restricts the download to that variant's files.

    Raises:
        vader.WeightsError: if there is no such folder or repository, or it is not a ModelScope pipeline.
    """
    folder = find(weights, revision)
    if not Path(weights).expanduser().is_dir():
        pattern = f"*.{variant}*.safetensors" if variant else "*.safetensors"
        folder = _download(
            weights, revision, [*_CONFIG_FILES, "tokenizer/*", *(f"{part}/{pattern}" for part in MODULES)]
        )
    for part in MODULES:
        check_safetensors(folder / part, weights, FIX)
    return folder


def find(weights: str, revision: str | None = None) -> Path:
    """The local folder with the index and configurations of a pipeline, judged; the weights need not be there.

    Raises:
        vader.WeightsError: see :func:`locate`.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise WeightsError(f"{weights} is a local folder and has no revision {revision!r}; leave `revision` out.")
    elif folder.exists() or not _HUB_ID.fullmatch(weights):
        what = "is a file, not a folder" if folder.exists() else "is no folder here, nor a hub id (owner/name)"
        raise WeightsError(f"weights {weights!r} {what}. {FIX}")
    else:
        folder = _download(weights, revision, list(_CONFIG_FILES))
    kind = read_json(folder / INDEX, weights).get("_class_name")
    if kind != PIPELINE:
        raise WeightsError(f"{weights} is a {kind}; expected a {PIPELINE}. {FIX}")
    for part, config in CONFIGS.items():
        if not (folder / part / config).is_file():
            raise WeightsError(f"{weights} has no {part}/{config}; expected the folders {', '.join(CONFIGS)}. {FIX}")
    return folder


_CONFIG_FILES = (INDEX, *(f"{part}/{config}" for part, config in CONFIGS.items()))


def load(folder: Path, name: str, variant: str | None, dtype: torch.dtype, vae_dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder, on the CPU, from safetensors only, read straight into their places.

    Args:
        folder: as :func:`locate` gives it.
        name: what the user calls it, for errors.
        variant: of the weight files.
        dtype: of the UNet and the text encoder.
        vae_dtype: of the VAE.

    Raises:
        vader.WeightsError: if a file is missing, truncated or of another model.
    """
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise WeightsError(f"{name}: the tokenizer cannot be loaded: {first_line(error)}. {FIX}") from error
    return Parts(
        unet=_module(UNet3DConditionModel, folder, "unet", name, variant, dtype),
        text_encoder=_module(CLIPTextModel, folder, "text_encoder", name, variant, dtype),
        vae=_module(AutoencoderKL, folder, "vae", name, variant, vae_dtype),
        tokenizer=tokenizer,
    )


def config(folder: Path, part: str, name: str) -> dict[str, Any]:
    """The configuration of a part of a pipeline.

    Raises:
        vader.WeightsError: if it cannot be read.
    """
    return read_json(folder / part / CONFIGS[part], name)


def check_fit(folder: Path, name: str, spatial_multiple: int) -> None:
    """The parts fit each other and the sizes that were promised, by their configurations alone.

    Args:
        folder: as :func:`locate` gives it.
        name: what the user calls it, for errors.
        spatial_multiple: pixels per latent cell.

    Raises:
        vader.WeightsError: if not.
    """
    unet, vae, text = (config(folder, part, name) for part in ("unet", "vae", "text_encoder"))
    channels = vae.get("latent_channels", 4)  # what a file leaves out has its class's default
    found = {
        "pixels per latent cell": (2 ** (len(vae.get("block_out_channels", [64])) - 1), spatial_multiple),
        "channels into the UNet": (unet.get("in_channels", 4), channels),
        "channels out of the UNet": (unet.get("out_channels", 4), channels),
        "width of the text embeddings": (text.get("hidden_size", 512), unet.get("cross_attention_dim", 1024)),
    }
    wrong = [f"{what}: {seen}, expected {wanted}" for what, (seen, wanted) in found.items() if seen != wanted]
    if wrong:
        raise WeightsError(f"the parts of {name} do not fit ({'; '.join(wrong)}). {FIX}")


def schedule(config: Mapping[str, Any], name: str, zero_terminal_snr: bool = False) -> NoiseSchedule:
    """The noise schedule that a diffusers scheduler configuration means.

    Args:
        config: of any scheduler of a variance-preserving process.
        name: what the user calls the weights, for errors.
        zero_terminal_snr: rescale so that the last training timestep is pure noise (Lin et al. 2023, arXiv 2305.08891,
            algorithm 1); a configuration that has ``rescale_betas_zero_snr`` asks for it by itself.

    Raises:
        vader.WeightsError: if it means no such process.
    """
    from diffusers import DDIMScheduler

    kind = config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise WeightsError(
            f"{name}: scheduler says prediction_type {kind!r}; expected {', '.join(_PREDICTIONS)}. {FIX}"
        )
    betas = {key: config[key] for key in _BETAS if config.get(key) is not None}
    rescale = zero_terminal_snr or bool(config.get("rescale_betas_zero_snr"))
    try:
        alphas = DDIMScheduler(**betas, rescale_betas_zero_snr=rescale).alphas_cumprod.double()
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{name}: scheduler means no noise schedule: {first_line(error)}. {FIX}") from error
    return NoiseSchedule(
        prediction=_PREDICTIONS[kind],
        alphas_cumprod=alphas.clamp(min=TINY_ALPHA),
        train_timesteps=len(alphas),
        config={key: value for key, value in config.items() if key != "rescale_betas_zero_snr"},
    )


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


def _module(kind: Any, folder: Path, part: str, name: str, variant: str | None, dtype: torch.dtype) -> Any:
    """One network, with every weight from its files and no weight of theirs left over."""
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
    missing = sorted(map(str, info["missing_keys"]))
    unexpected = sorted(key for key in map(str, info["unexpected_keys"]) if not key.endswith("position_ids"))
    if missing or unexpected:
        raise WeightsError(
            f"{name}: the files of {part} are of another {kind.__name__} than its config.json: {len(missing)} weights "
            f"are missing{_some(missing)}, {len(unexpected)} are unexpected{_some(unexpected)}. {FIX}"
        )
    return module


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A configuration file.

    Raises:
        vader.WeightsError: if it is not there or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{name} has no {path.name}, so it is not a pipeline in diffusers' layout. {FIX}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: {path.name} is not readable JSON: {first_line(error)}. {FIX}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{name}: {path.name} holds {type(data).__name__}; expected a JSON object. {FIX}")
    return data


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
