"""Components of real architectures with random weights: what ``vader estimate`` builds, with bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vader import Runtime, Video, sdk
from vader_diffusers.wan import Wan, WanOptions
from vader_rewards.clip_heads import Aesthetic, AestheticOptions


def materialise(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Give a module of the meta device memory and random numbers."""
    module.to_empty(device=device)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
            else:
                tensor.zero_()
    return module


class RandomWan(Wan):
    """Wan with random weights, of any published configuration."""

    def __init__(self, options: WanOptions, runtime: Runtime, video: Video | None = None) -> None:
        self._assemble(sdk.Parts.outline(self.family, options), runtime, materialise, video)


class RandomAesthetic(Aesthetic):
    """The CLIP aesthetic reward with random weights."""

    def __init__(self, options: AestheticOptions, runtime: Runtime) -> None:
        made: Any = Aesthetic.meta_init(options, runtime, materialise)
        self.__dict__.update(made.__dict__)
