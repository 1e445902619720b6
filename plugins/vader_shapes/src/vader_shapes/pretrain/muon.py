"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): momentum, orthogonalised per weight matrix.

Convolution kernels are treated as matrices (out, in * kernel); vectors and embeddings take AdamW steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

TABLES = ("embed_tokens", "relative_attention_bias", "words", "places", "clip.place")  # look-up tables, by name


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Approximately U V^T of `matrix` `(m, n)` by the quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """Muon for weights with two or more dimensions, AdamW for the rest.

    Args:
        named_parameters: of the model; those whose names contain one of `TABLES` go to AdamW.
        lr: Muon's learning rate; a step has root mean square `0.2 * lr` per weight, like AdamW's at `0.2 * lr`.
        momentum: Nesterov momentum of Muon.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, momentum: float = 0.95) -> None:
        matrices, vectors = [], []
        for name, parameter in named_parameters:
            (matrices if _is_matrix(name, parameter) else vectors).append(parameter)
        groups = [{"params": matrices, "muon": True}, {"params": vectors, "muon": False}]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["muon"]:
                    self._muon_step(parameter, group)
                else:
                    self._adam_step(parameter, group)

    def _muon_step(self, parameter: nn.Parameter, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        grad = parameter.grad
        assert grad is not None
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        update = orthogonalise(grad.lerp(state["momentum"], group["momentum"]).flatten(1)).view_as(parameter)
        rows, columns = parameter.flatten(1).shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)

    def _adam_step(self, parameter: nn.Parameter, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"], state["mean"], state["square"] = 0, torch.zeros_like(parameter), torch.zeros_like(parameter)
        grad = parameter.grad
        assert grad is not None
        state["step"] += 1
        state["mean"].lerp_(grad, 0.1)
        state["square"].mul_(0.99).addcmul_(grad, grad, value=0.01)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - 0.99 ** state["step"])
        parameter.add_(mean / (square.sqrt() + 1e-8), alpha=-group["lr"] * 0.3)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes it: at least two dimensions larger than one, and no look-up table."""
    return parameter.ndim > 1 and parameter.flatten(1).shape[1] > 1 and _is_wide(name, parameter)


def _is_wide(name: str, parameter: nn.Parameter) -> bool:
    return parameter.shape[0] > 1 and not any(table in name for table in TABLES)
