"""AdamW as a run has it."""

from __future__ import annotations

import importlib
from typing import cast

import torch
from torch import nn

from vader.spec import TrainSpec

BLOCK, LEAST = 256, 4096
"""Of bitsandbytes: numbers of a state in eight bits that share a scale, and how many a parameter must have for that."""


def adamw(spec: TrainSpec, parameters: list[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """AdamW, of torch or, with its state in eight bits (Dettmers et al. 2022, arXiv 2110.02861), of bitsandbytes.

    Args:
        spec: learning rate, weight decay, which.
        parameters: that train.
        device: of the run.
    """
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimizer == "adamw_8bit":
        optimizers = importlib.import_module("bitsandbytes.optim")
        return cast(torch.optim.Optimizer, optimizers.AdamW8bit(parameters, lr=rate, weight_decay=decay))
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=device.type in ("cpu", "cuda") or None)
