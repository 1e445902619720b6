"""Loads the folder of a ModelScope pipeline, judged first. Every way it can fail is one ``vader.WeightsError``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import NoiseSchedule, WeightsError
from vader.sdk import MetaTokens, PipelineFolder, first_line, meta_network

if TYPE_CHECKING:
    import torch

    from vader.sdk import Prediction

HUB = "ali-vilab/text-to-video-ms-1.7b"
FIX = (
    f"Set `weights` to a ModelScope text-to-video pipeline in diffusers' layout: a hub id such as {HUB}, or a folder "
    f"that `hf download {HUB} --local-dir FOLDER` has filled."
)
CLASS = "TextToVideoSDPipeline"
TINY_ALPHA = 2.0**-24
"""In place of an exact zero, at which every solver divides by zero; diffusers' multistep solvers use it likewise."""
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


@dataclass(frozen=True)
class Parts:
    """The loaded parts of a pipeline, on the CPU."""

    unet: Any
    text_encoder: Any
    vae: Any
    tokenizer: Any


def _judge(index: Mapping[str, Any], name: str) -> None:
    kind = index.get("_class_name")
    if kind != CLASS:
        raise WeightsError(f"{name} is a {kind}; expected a {CLASS}. {FIX}")


PIPELINE = PipelineFolder(("unet", "text_encoder", "vae"), _judge, FIX)
PUBLISHED = Path(__file__).parent / "published"
"""The configurations of :data:`HUB`, without its weights."""


def load(folder: Path, name: str, variant: str | None, dtype: torch.dtype, vae_dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder, on the CPU, from safetensors only, read straight into their places.

    Args:
        folder: as ``PIPELINE.locate`` gives it.
        name: what the user calls it, for errors.
        variant: of the weight files.
        dtype: of the UNet and the text encoder.
        vae_dtype: of the VAE.

    Raises:
        vader.WeightsError: if a file is missing, truncated or of another model.
    """
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    return Parts(
        unet=PIPELINE.module(UNet3DConditionModel, folder, "unet", name, variant, dtype),
        text_encoder=PIPELINE.module(CLIPTextModel, folder, "text_encoder", name, variant, dtype),
        vae=PIPELINE.module(AutoencoderKL, folder, "vae", name, variant, vae_dtype),
        tokenizer=PIPELINE.tokenizer(CLIPTokenizer, folder, name),
    )


def outline(folder: Path, name: str, variant: str | None, dtype: torch.dtype, vae_dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder on the meta device, from its configurations alone. Args as of :func:`load`."""
    from diffusers import AutoencoderKL, UNet3DConditionModel
    from transformers import CLIPTextModel

    unet, text_encoder, vae = (PIPELINE.config(folder, part, name) for part in PIPELINE.modules)
    return Parts(
        unet=meta_network(UNet3DConditionModel, unet, dtype),
        text_encoder=meta_network(CLIPTextModel, text_encoder, dtype),
        vae=meta_network(AutoencoderKL, vae, vae_dtype),
        tokenizer=MetaTokens(),
    )


def check_fit(folder: Path, name: str, spatial_multiple: int) -> None:
    """The parts fit each other and the sizes that were promised, by their configurations alone.

    Args:
        folder: as ``PIPELINE.locate`` gives it.
        name: what the user calls it, for errors.
        spatial_multiple: pixels per latent cell.

    Raises:
        vader.WeightsError: if not.
    """
    unet, vae, text = (PIPELINE.config(folder, part, name) for part in ("unet", "vae", "text_encoder"))
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
