"""Image towers that compare pictures: DINOv2 and CLIP of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from vader import SpecError, WeightsError
from vader.sdk import Problem, first_line, meta_network
from vader_rewards import meta_init, pixels

PUBLISHED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "facebook/dinov2-base": {"model_type": "dinov2", "image_size": 518, "patch_size": 14},
        **{name: {"model_type": "clip", **config} for name, config in meta_init.PUBLISHED.items()},
    }
)
"""Configurations of published towers; what is left out has its class's default."""


@dataclass(frozen=True)
class ImageTower:
    """A kind of tower.

    Args:
        kind: class of transformers.
        whole: its files hold nothing but it.
        clip: it is the image half of a CLIP.
    """

    kind: Any
    whole: bool
    clip: bool

    def outlined(self, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
        """On the meta device."""
        vision = {"projection_dim": config.get("projection_dim", 512), **config.get("vision_config", config)}
        found: nn.Module = meta_network(self.kind, vision if self.clip else config, dtype)
        return found.requires_grad_(False).eval()

    def features(self, network: Any, images: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """Images ``(n 3 h w)`` in [0, 1] -> ``(n d)``: CLIP's embedding, or DINOv2's class token."""
        crop = settings.get("crop_size", {}).get("height", 224)
        side = network.config.image_size if self.clip else crop
        short = side if self.clip else settings.get("size", {}).get("shortest_edge", 256)
        ready = pixels.center_crop(pixels.short_side(images, max(short, side), "bicubic").clamp(0, 1), side)
        mean = settings.get("image_mean", pixels.CLIP_MEAN if self.clip else pixels.IMAGENET_MEAN)
        std = settings.get("image_std", pixels.CLIP_STD if self.clip else pixels.IMAGENET_STD)
        found = network(pixel_values=pixels.normalise(ready, mean, std).to(network.dtype))
        embedded: Tensor = found.image_embeds if self.clip else found.pooler_output
        return embedded


def of(config: Mapping[str, Any], name: str) -> ImageTower:
    """The kind of tower that a configuration tells.

    Raises:
        vader.WeightsError: it is none that is known.
    """
    from transformers import CLIPVisionModelWithProjection, Dinov2Model

    found = config.get("model_type")
    if found == "dinov2":
        return ImageTower(Dinov2Model, whole=True, clip=False)
    if found in ("clip", "clip_vision_model"):
        return ImageTower(CLIPVisionModelWithProjection, whole=False, clip=True)
    raise WeightsError(f"`weights: {name}` is a {found}; expected a dinov2 or a clip.")


def picture(path: Path) -> Tensor:
    """An image file, ``(1 3 h w)`` float32 in [0, 1].

    Raises:
        vader.SpecError: it cannot be read.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as opened:
            values = np.asarray(opened.convert("RGB"))
    except (OSError, ValueError) as error:
        message = f"{path} is no image that can be read: {first_line(error)}. Expected a PNG, JPEG or WebP file."
        raise SpecError([Problem("prompts", message)]) from error
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float() / 255
