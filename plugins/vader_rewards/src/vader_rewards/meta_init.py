"""Networks of rewards without their weights, from a folder's configuration or from that of published models."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from vader import Runtime, WeightsError
from vader.sdk import MetaTokens, Place, meta_network, user_path
from vader_rewards import pixels
from vader_rewards.heads import Head
from vader_rewards.holding import JudgeOptions
from vader_rewards.towers import ClipVision, OpenClip, outlined, placed

_VISION_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
_TEXT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "openai/clip-vit-large-patch14": {
        "projection_dim": 768,
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 224,
        },
    },
    "yuvalkirstain/PickScore_v1": {"projection_dim": 1024, "vision_config": _VISION_H, "text_config": _TEXT_H},
}
"""Configurations of published CLIPs."""
AESTHETIC = (768, 1024, 128, 64, 16, 1)
"""Widths of LAION's published score head."""


def config(name: str, published: Mapping[str, Mapping[str, Any]] = PUBLISHED) -> dict[str, Any]:
    """The configuration of a CLIP, or of another network whose published ones are given.

    Raises:
        vader.WeightsError: it is neither in a folder here nor known.
    """
    file = user_path(name) / "config.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    if name not in published:
        raise WeightsError(f"{name} is no folder here; without weights only {', '.join(published)} are known.")
    return dict(published[name])


def clip_vision(name: str, revision: str | None, options: JudgeOptions, runtime: Runtime, place: Place) -> ClipVision:
    """The image tower of a CLIP of transformers, one for all rewards of an estimate."""
    from transformers import CLIPVisionModelWithProjection

    found = config(name)
    vision = {"projection_dim": found.get("projection_dim", 512), **found.get("vision_config", found)}

    def build() -> ClipVision:
        tower = meta_network(CLIPVisionModelWithProjection, vision, runtime.dtype).requires_grad_(False).eval()
        return ClipVision(placed(tower, options, runtime, place))

    return outlined(("clip_vision", name, revision, options.offload), runtime, build)


def head(widths: tuple[int, ...], runtime: Runtime, place: Place) -> Head:
    """A score head of these widths."""
    dtype = pixels.wide(runtime.dtype)
    layers = [nn.Linear(a, b, device="meta", dtype=dtype) for a, b in pairwise(widths)]
    made: Head = place(Head(layers, "none", "none").requires_grad_(False).eval(), runtime.device)
    return made


def clip(name: str, runtime: Runtime) -> tuple[nn.Module, MetaTokens]:
    """Both halves of a CLIP of transformers, and a tokenizer."""
    from transformers import CLIPModel

    made = meta_network(CLIPModel, config(name), runtime.dtype).requires_grad_(False).eval()
    return made, MetaTokens(77)


def open_clip(architecture: str, source: str, options: JudgeOptions, runtime: Runtime, place: Place) -> OpenClip:
    """Both halves of a CLIP of open_clip, one for all rewards of an estimate.

    Args:
        architecture: one that is part of it, or ``local-dir:FOLDER``.
        source: names its weights.
        options: how it is held.
        runtime: of the estimate.
        place: see :class:`vader.sdk.Place`.
    """
    import open_clip as library

    def build() -> OpenClip:
        logging.disable(logging.WARNING)  # it warns that no weights are loaded
        try:
            with torch.device("meta"):
                made = library.create_model(architecture, load_weights=False, pretrained_text=False, device="meta")
        finally:
            logging.disable(logging.NOTSET)
        made = made.requires_grad_(False).eval().to(runtime.dtype)
        return OpenClip(placed(made, options, runtime, place), library.get_tokenizer(architecture))

    return outlined(("open_clip", architecture, source, options.offload), runtime, build)
