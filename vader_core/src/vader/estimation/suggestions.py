"""Which change of a spec would save most: every one is estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from vader.errors import VaderError
from vader.estimation.estimate import Estimate, estimate
from vader.protocols import Cost, DecodesForReward
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve

_WINDOWS = (3, 1)
"""Latent frames that still point about where all of them do, and the fewest."""
_TILES = (2, 4)


@dataclass(frozen=True)
class Change:
    """A change of a spec that may save memory.

    Args:
        overrides: dotted ``path=value``.
        costs: what it costs.
    """

    overrides: tuple[str, ...]
    costs: Cost

    @property
    def paths(self) -> set[str]:
        """What it sets."""
        return {override.partition("=")[0] for override in self.overrides}

    def __str__(self) -> str:
        return ", ".join(self.overrides)


@dataclass(frozen=True)
class Saving:
    """A change of a spec and what the run then needs.

    Args:
        changes: dotted ``path=value`` overrides.
        total: bytes with them.
    """

    changes: tuple[str, ...]
    total: int


def changes(plan: Plan) -> list[Change]:
    """The changes that may save memory, of those that the spec does not have already: by what they cost, least first.

    A path may occur twice; what comes later saves more, and takes the place of what came before.
    """
    found = [*_of_training(plan), *_decoding(plan), *_own_options(plan)]
    offered = [Change(overrides, costs) for apt, costs, overrides in found if apt]
    return sorted(offered, key=lambda change: get_args(Cost).index(change.costs))


_Offer = tuple[bool, Cost, tuple[str, ...]]
"""Whether it is apt, what it costs, and the overrides."""


def _of_training(plan: Plan) -> Iterator[_Offer]:
    """What every run has."""
    spec, frames = plan.spec, [part.capability("frames") for part in plan.rewards.values()]
    able = plan.backbone.capability("gradient_checkpointing")
    train, gradient, init = spec.train, spec.gradient, spec.backbone.adapter.init
    several = train.batch_size * train.gradient_accumulation
    yield spec.validation.clips > 0 and (spec.validation.batch_size or 2) > 1, "once", ("validation.batch_size=1",)
    yield gradient.recompute is not True, "time", ("gradient.recompute=true",)
    yield able and not train.gradient_checkpointing, "time", ("train.gradient_checkpointing=true",)
    moved = ("train.gradient_checkpointing=true", "train.offload_activations=true")
    yield able and not train.offload_activations, "time", moved
    smaller = ("train.batch_size=1", f"train.gradient_accumulation={several}")
    yield train.batch_size > 1, "time", smaller
    yield train.mixed_precision == "no", "rounding", ("train.mixed_precision=bf16",)
    yield train.optimizer == "adamw", "rounding", ("train.optimizer=adamw_8bit",)
    both = gradient.branches == "both" and spec.sampler.guidance_scale != 1
    yield both, "gradient", ("gradient.branches=conditional",)
    yield gradient.mode != "last", "task", ("gradient.mode=last", "gradient.k=null", "gradient.from_step=null")
    one_frame = spec.frames.mode in ("all", "alt", "fml") and max(frames, default=1) <= 1
    yield one_frame, "task", ("frames.mode=random",)
    yield spec.backbone.adapter.rank > 4 and init is None, "task", ("backbone.adapter.rank=4",)


def _decoding(plan: Plan) -> Iterator[_Offer]:
    """What the backbone's decoder can do."""
    able, frames = plan.backbone.ability(DecodesForReward), plan.spec.frames
    modes = able.decode_modes(plan.backbone.options) if able is not None else ()
    for tiles in _TILES:
        yield "tiles" in modes and frames.decode_tiles < tiles, "time", (f"frames.decode_tiles={tiles}",)
    rounded = ("frames.decode_precision=bf16",)
    yield "precision" in modes and frames.decode_precision == "float32", "rounding", rounded
    for window in _WINDOWS:
        wider = frames.decode_window is None or frames.decode_window > window
        yield "window" in modes and wider, "gradient", (f"frames.decode_window={window}",)


def _own_options(plan: Plan) -> Iterator[_Offer]:
    """What the backbone says of its own options: of one option, what follows the value that it has."""
    options, offers = plan.backbone.options, plan.backbone.capability("memory_options")
    for place, offer in enumerate(offers):
        name = offer.setting.partition("=")[0]
        later = [each.setting for each in offers[place:]]
        apt = f"{name}={getattr(options, name)}" not in later
        yield apt, offer.costs, (f"backbone.options.{offer.setting}",)


def _mildest(offered: Sequence[Change]) -> list[Change]:
    """Of changes of the same path the first."""
    paths = [set().union(*(one.paths for one in offered[:place])) for place in range(len(offered))]
    return [change for change, before in zip(offered, paths, strict=True) if not change.paths & before]


def savings(
    found: Estimate,
    spec: Spec,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> list[Saving]:
    """What every change by itself would save, the most first.

    Args:
        found: the estimate without them.
        spec: see :func:`vader.estimation.estimate`.
        overrides: see :func:`vader.estimation.estimate`.
        progress: told what is estimated next.
    """
    made: list[Saving] = []
    for wanted in _mildest(changes(resolve(spec, overrides))):
        progress(str(wanted))
        try:
            total = estimate(spec, [*overrides, *wanted.overrides], found.device).total
        except VaderError:
            continue  # this spec cannot have it
        if total < found.total:
            made.append(Saving(wanted.overrides, total))
    return sorted(made, key=lambda saving: saving.total)
