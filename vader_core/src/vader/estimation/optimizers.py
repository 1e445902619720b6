"""Optimizers that hold a state and take nothing in a step: AdamW in one kernel, for estimates."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch import nn

from vader.runs.optimizer import BLOCK, LEAST


class InPlaceAdamW(torch.optim.Optimizer):
    """AdamW as an accelerator runs it, fused; its numbers are not made.

    Args:
        parameters: that train.
        eight_bits: the state is that of bitsandbytes.
    """

    def __init__(self, parameters: list[nn.Parameter], *, eight_bits: bool) -> None:
        super().__init__(parameters, {"lr": 0.0})
        self._eight_bits = eight_bits

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Make the state that is not there yet."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._state(parameter)

    def _state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        count = parameter.numel()
        if not self._eight_bits:
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            return {**moments, "step": parameter.new_zeros(())}
        if count < LEAST:
            return {name: torch.zeros_like(parameter) for name in ("state1", "state2")}
        packed = {name: torch.zeros_like(parameter, dtype=torch.uint8) for name in ("state1", "state2")}
        return packed | {name: parameter.new_zeros(ceil(count / BLOCK)) for name in ("absmax1", "absmax2")}
