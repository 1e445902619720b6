"""Loads the folder of a Wan pipeline, judged first. Every way it can fail is one ``vader.WeightsError``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import NoiseSchedule, WeightsError
from vader.sdk import INDEX, MetaTokens, PipelineFolder, meta_network

if TYPE_CHECKING:
    import torch

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
FIX = (
    "Set `weights` to a Wan 2.1 text-to-video pipeline in diffusers' layout: a hub id such as "
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or a folder that "
    "`hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir FOLDER` has filled."
)


@dataclass(frozen=True)
class Parts:
    """The loaded parts of a pipeline, on the CPU."""

    transformer: Any
    text_encoder: Any
    vae: Any
    tokenizer: Any
    schedule: NoiseSchedule


def _judge(index: Mapping[str, Any], name: str) -> None:
    """``model_index.json`` describes a pipeline that this plugin can take apart."""
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


PIPELINE = PipelineFolder(("transformer", "text_encoder", "vae"), _judge, FIX)
PUBLISHED = Path(__file__).parent / "published"
"""The configurations of :data:`HUB`, without its weights."""


def load(folder: Path, name: str, variant: str | None, dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder, on the CPU, from safetensors only.

    Args:
        folder: as ``PIPELINE.locate`` gives it.
        name: what the user calls it, for errors.
        variant: of the weight files.
        dtype: of the transformer and the text encoder; the VAE is loaded in float32.

    Raises:
        vader.WeightsError: if a file is missing, truncated or of another model.
    """
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5EncoderModel

    return Parts(
        transformer=PIPELINE.module(WanTransformer3DModel, folder, "transformer", name, variant, dtype),
        text_encoder=PIPELINE.module(UMT5EncoderModel, folder, "text_encoder", name, variant, dtype),
        vae=PIPELINE.module(AutoencoderKLWan, folder, "vae", name, variant, torch.float32),
        tokenizer=PIPELINE.tokenizer(AutoTokenizer, folder, name),
        schedule=schedule(PIPELINE.config(folder, "scheduler", name), name),
    )


def outline(folder: Path, name: str, variant: str | None, dtype: torch.dtype) -> Parts:
    """The parts of a pipeline folder on the meta device, from its configurations alone. Args as of :func:`load`."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    transformer, text_encoder, vae = (PIPELINE.config(folder, part, name) for part in PIPELINE.modules)
    return Parts(
        transformer=meta_network(WanTransformer3DModel, transformer, dtype),
        text_encoder=meta_network(UMT5EncoderModel, text_encoder, dtype),
        vae=meta_network(AutoencoderKLWan, vae, torch.float32),
        tokenizer=MetaTokens(),
        schedule=schedule(PIPELINE.config(folder, "scheduler", name), name),
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
