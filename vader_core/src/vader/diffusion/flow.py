"""Euler steps of a rectified flow, seen from outside: their noise levels, and integrals over them.

Source: Liu et al. 2022, arXiv 2209.03003; Lagrange weights: FlowBP, arXiv 2606.11075.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vader.protocols import Sampler


def flow_levels(sampler: Sampler) -> list[float]:
    """The noise levels between the steps of a sampler, from noise to 0, one more than it has steps.

    A step of Euler's is ``latents + (following - level) * velocity``, so that a unit velocity tells its length.

    Raises:
        ValueError: its steps are not Euler's.
    """
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    lengths = []
    for i in range(len(sampler.timesteps)):
        kept = sampler.step(zero, i, one, -one).prev  # where noise is added, less than one
        if not torch.equal(kept, one):
            raise ValueError(f"step {i} of {type(sampler).__name__} is no Euler step of a flow")
        lengths.append(float(sampler.step(one, i, zero, zero).prev))
    levels = [0.0]
    for length in reversed(lengths):
        levels.append(levels[-1] - length)
    return levels[::-1]


def supports(start: int, stop: int, order: int) -> list[int]:
    """Steps of an interval whose velocities are interpolated: its start, and others at even distances.

    Args:
        start: first step.
        stop: the step after the last.
        order: how many at most.
    """
    count = min(order, stop - start)
    if count == 1:
        return [start]
    return [start + round(index * (stop - start - 1) / (count - 1)) for index in range(count)]


def lagrange_weights(points: Sequence[float], start: float, end: float) -> list[float]:
    """Weights that integrate, from ``start`` to ``end``, the polynomial through values at ``points``.

    Exact for values that are polynomial of a degree below the number of points, which differ. In float64.
    """
    weights = []
    for index, point in enumerate(points):
        basis = torch.ones(1, dtype=torch.float64)  # coefficients, the constant first
        for other in (*points[:index], *points[index + 1 :]):
            raised = torch.cat([torch.zeros(1, dtype=torch.float64), basis])
            raised[:-1] -= (other - start) * basis
            basis = raised / (point - other)
        powers = torch.arange(1, len(basis) + 1, dtype=torch.float64)
        weights.append(float((basis / powers * (end - start) ** powers).sum()))
    return weights


def join(predicted: Tensor, true: Tensor) -> Tensor:
    """The value of ``true`` with the gradient of ``predicted``: ``true + predicted - sg(predicted)``, ``(b ...)``."""
    return true.detach() + (predicted - predicted.detach())


def scale_gradient(tensor: Tensor, factor: float | Tensor) -> Tensor:
    """The same value; its gradient is multiplied."""
    return join(tensor * factor, tensor)
