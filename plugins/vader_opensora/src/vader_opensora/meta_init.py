"""The networks of Open-Sora 1.2 without their weights: from the folders' configurations, or the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import T5EncoderModel

from vader import WeightsError
from vader.sdk import meta_network, user_path
from vader_opensora import weights as files
from vader_opensora.stdit3 import STDiT3
from vader_opensora.vae import OpenSoraVAE

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "denoiser": {"model_type": "STDiT3"},
    "vae": {"model_type": "VideoAutoencoderPipeline"},
    "text_encoder": {
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
}
"""Of the repositories in :data:`vader_opensora.weights.HUB`; sizes that are not said are the classes' own."""


def parts(weights: str | None, named: Mapping[str, str | None], dtype: torch.dtype) -> tuple[STDiT3, OpenSoraVAE, Any]:
    """Denoiser, VAE and text encoder on the meta device. Args as of :func:`vader_opensora.weights.locate`.

    Raises:
        vader.WeightsError: a part is neither a folder here nor the published one, or is of another model.
    """
    folders = {
        part: Path(name or (Path(weights, part) if weights else files.HUB[part])) for part, name in named.items()
    }
    configs = {part: _config(part, user_path(folder)) for part, folder in folders.items()}
    denoiser = files.empty_denoiser(configs["denoiser"], folders["denoiser"])
    vae = files.empty_vae(configs["vae"], folders["vae"])
    for name, tensor in [*denoiser.named_parameters(), *denoiser.named_buffers()]:
        tensor.data = tensor.data.to(torch.float32 if name == "rope.freqs" else dtype)
    return denoiser, vae, meta_network(T5EncoderModel, configs["text_encoder"], dtype)


def _config(part: str, folder: Path) -> Mapping[str, Any]:
    """The configuration of a part."""
    if folder.is_dir():
        return files.config(folder, part)
    if str(folder) != files.HUB[part]:
        raise WeightsError(f"{part} {str(folder)!r} is no folder here; without one only {files.HUB[part]} is known.")
    return PUBLISHED[part]
