"""Surrogates of a rollout: latents whose gradient is cheap, and whose value is made that of the true ones (FlowBP,
arXiv 2606.11075; LeapAlign, arXiv 2604.15311).

A surrogate says what it needs of the rollout, and is built from it afterwards. Its gradient is that of a few denoiser
calls; where the gradient alone counts, parts without one are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vader.diffusion.flow import join, lagrange_weights, scale_gradient, supports
from vader.methods.replay import Replay
from vader.shapes import Latents


class Surrogate(Protocol):
    """One draw of steps."""

    @property
    def latents(self) -> Collection[int]:
        """Steps before which the rollout's latents are needed."""
        ...

    @property
    def velocities(self) -> Collection[int]:
        """Steps whose velocities are needed."""
        ...

    @property
    def calls(self) -> int:
        """How many denoiser calls carry gradient."""
        ...

    def build(self, replay: Replay) -> tuple[Latents, Tensor, dict[str, Tensor]]:
        """Latents ``(b ...)`` with gradient, the weight of each clip's loss ``(b,)``, and figures for the log."""
        ...


DrawSurrogate = Callable[[random.Random], Surrogate]


def late_biased(steps: Sequence[int], count: int, bias: float, rng: random.Random) -> list[int]:
    """``count`` different steps, ascending; the one at place ``p`` of ``steps`` weighs ``(p + 1) ** bias``."""
    left, chosen = list(enumerate(steps)), list[int]()
    for _ in range(count):
        place = rng.choices(range(len(left)), [(index + 1.0) ** bias for index, _ in left])[0]
        chosen.append(left.pop(place)[1])
    return sorted(chosen)


def rescaled(replay: Replay, active: Sequence[int], rescale: float) -> float:
    """``1 + r (sum of all lengths / sum of active ones - 1)``: what active velocities' gradients are multiplied by."""
    lengths = [abs(replay.length(i)) for i in range(replay.steps)]
    return 1 + rescale * (sum(lengths) / sum(lengths[i] for i in active) - 1)


def _ones(latents: Latents) -> Tensor:
    return latents.new_ones(len(latents))


@dataclass(frozen=True)
class Sparse:
    """Euler's sum of the velocities of some steps, each at the latents of the rollout (arXiv 2606.11075,
    FlowBP-Sparse). Without rescaling this is DRTune's gradient (arXiv 2405.00760).

    Args:
        active: the steps, ascending.
        rescale: r of :func:`rescaled`.
    """

    active: Sequence[int]
    rescale: float

    @property
    def latents(self) -> Collection[int]:
        """See :class:`Surrogate`."""
        return self.active

    velocities = ()

    @property
    def calls(self) -> int:
        """See :class:`Surrogate`."""
        return len(self.active)

    def build(self, replay: Replay) -> tuple[Latents, Tensor, dict[str, Tensor]]:
        """See :class:`Surrogate`."""
        factor = rescaled(replay, self.active, self.rescale)
        moved = sum((replay.length(i) * factor * replay.velocity(i) for i in self.active), torch.zeros(()))
        return moved, _ones(replay.latents[replay.steps]), {}


@dataclass(frozen=True)
class Bridge:
    """Two such sums, before and after a step ``j``, whose latents join them (arXiv 2606.11075, FlowBP-Bridge).

    Args:
        before: active steps before ``j``, ascending.
        after: active steps from ``j`` on, ascending, ``j`` first.
        rescale: r of :func:`rescaled`.
        coupling: a; what part of the gradient of the denoiser's input at ``j`` goes on.
    """

    before: Sequence[int]
    after: Sequence[int]
    rescale: float
    coupling: float

    @property
    def latents(self) -> Collection[int]:
        """See :class:`Surrogate`."""
        return (*self.before, *self.after)

    velocities = ()

    @property
    def calls(self) -> int:
        """See :class:`Surrogate`."""
        return len(self.before) + len(self.after)

    def build(self, replay: Replay) -> tuple[Latents, Tensor, dict[str, Tensor]]:
        """See :class:`Surrogate`."""
        factor, j = rescaled(replay, (*self.before, *self.after), self.rescale), self.after[0]
        moved = sum((replay.length(i) * factor * replay.velocity(i) for i in self.before), torch.zeros(()))
        joined = join(moved, replay.latents[j])
        for i in self.after:
            given = scale_gradient(joined, self.coupling) if i == j else None
            moved = moved + replay.length(i) * factor * replay.velocity(i, given)
        return moved, _ones(joined), {}


@dataclass(frozen=True)
class Leaps:
    """Two leaps, from step ``k`` to ``j`` and from there to the end (LeapAlign, arXiv 2604.15311, and FlowBP-Lagrange,
    arXiv 2606.11075).

    A leap integrates the polynomial through the velocities at up to ``order`` steps; with one, its start's, it is an
    Euler step. A clip whose leaps end far from where the rollout went weighs less:
    ``1 / (max(d_j, floor) + max(d_end, floor))``, d the mean absolute distance.

    Args:
        k: start of the first leap.
        j: start of the second.
        steps: of the rollout.
        order: most velocities of a leap.
        coupling: a; what part of the gradient of the denoiser's input at ``j`` goes on.
        support_scale: what the gradient of a leap's second velocity is multiplied by; those after it carry none.
        floor: tau.
    """

    k: int
    j: int
    steps: int
    order: int
    coupling: float
    support_scale: float
    floor: float

    @property
    def _supports(self) -> tuple[list[int], list[int]]:
        return supports(self.k, self.j, self.order), supports(self.j, self.steps, self.order)

    @property
    def latents(self) -> Collection[int]:
        """See :class:`Surrogate`."""
        return [step for found in self._supports for step in found[:2]]

    @property
    def velocities(self) -> Collection[int]:
        """See :class:`Surrogate`."""
        return [step for found in self._supports for step in found[2:]]

    @property
    def calls(self) -> int:
        """See :class:`Surrogate`."""
        return len(self.latents)

    def build(self, replay: Replay) -> tuple[Latents, Tensor, dict[str, Tensor]]:
        """See :class:`Surrogate`."""
        first, second = self._supports
        middle = replay.latents[self.k] + self._leap(replay, first, self.j, None)
        joined = join(middle, replay.latents[self.j])
        end = joined + self._leap(replay, second, self.steps, scale_gradient(joined, self.coupling))
        apart = [_distance(middle, joined), _distance(end, replay.latents[self.steps])]
        weight = 1 / torch.stack(apart).clamp(min=self.floor).sum(0)
        return end, weight, {"leap/middle": apart[0].mean(), "leap/end": apart[1].mean()}

    def _leap(self, replay: Replay, chosen: list[int], end: int, latents: Latents | None) -> Tensor:
        """What a leap adds to the latents it starts from. ``latents``: the denoiser's input at its start."""
        weights = lagrange_weights([replay.levels[i] for i in chosen], replay.levels[chosen[0]], replay.levels[end])
        found = [replay.velocity(chosen[0], latents)]
        found += [scale_gradient(replay.velocity(i), self.support_scale) for i in chosen[1:2]]
        found += [replay.velocities[i] for i in chosen[2:]]
        return sum((weight * one for weight, one in zip(weights, found, strict=True)), torch.zeros(()))


def _distance(one: Latents, other: Latents) -> Tensor:
    """Mean absolute difference of each clip, ``(b,)``."""
    return (one.detach() - other.detach()).abs().flatten(1).mean(1)


def draw_sparse(steps: int, active: int, bias: float, rescale: float) -> DrawSurrogate:
    """Draws of :class:`Sparse`: ``active`` steps, later ones likelier by ``bias``."""
    return lambda rng: Sparse(late_biased(range(steps), active, bias, rng), rescale)


def draw_bridge(steps: int, active: int, bias: float, rescale: float, coupling: float) -> DrawSurrogate:
    """Draws of :class:`Bridge`: ``j`` the later of two random steps; the active ones share out by the lengths."""

    def draw(rng: random.Random) -> Bridge:
        j = max(rng.sample(range(steps), 2))
        before = min(max(round(active * j / steps), 1, active - (steps - j)), j, active - 1)
        rest = late_biased(range(j + 1, steps), min(active - before, steps - j) - 1, bias, rng)
        return Bridge(late_biased(range(j), before, bias, rng), [j, *rest], rescale, coupling)

    return draw


def draw_leaps(steps: int, *, order: int, coupling: float, support_scale: float, floor: float) -> DrawSurrogate:
    """Draws of :class:`Leaps` between two random steps."""

    def draw(rng: random.Random) -> Leaps:
        k, j = sorted(rng.sample(range(steps), 2))
        return Leaps(k, j, steps, order, coupling, support_scale, floor)

    return draw


def draw_split_leaps(
    steps: int,
    split: tuple[float, float, float],
    latest: int,
    *,
    order: int,
    coupling: float,
    support_scale: float,
    floor: float,
) -> DrawSurrogate:
    """Draws of :class:`Leaps` whose lengths are a Dirichlet split of the steps.

    Args:
        steps: of the rollout.
        split: concentrations: of the steps from ``j`` to the end, from ``k`` to ``j``, and before ``k``.
        latest: most steps from ``j`` to the end; what is over goes before ``k``.
        order: see :class:`Leaps`, like what follows it.
    """

    def draw(rng: random.Random) -> Leaps:
        shares = [rng.gammavariate(alpha, 1.0) for alpha in split]
        after, between = (max(1, round(steps * share / sum(shares))) for share in shares[:2])
        after = min(after, latest, steps - 1)
        between = min(between, steps - after)
        j = steps - after
        return Leaps(j - between, j, steps, order, coupling, support_scale, floor)

    return draw
