"""Which change of a spec would save most: every one is estimated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vader.errors import VaderError
from vader.estimation.estimate import Estimate, estimate
from vader.protocols import DecodesForReward
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve

_WINDOW = 3
"""Latent frames that still point about where all of them do."""


@dataclass(frozen=True)
class Saving:
    """A change of a spec and what the run then needs.

    Args:
        changes: dotted ``path=value`` overrides.
        total: bytes with them.
    """

    changes: tuple[str, ...]
    total: int


def changes(plan: Plan) -> list[tuple[str, ...]]:
    """The changes that may save memory, of those that the spec does not have already."""
    spec, frames = plan.spec, [part.capability("frames") for part in plan.rewards.values()]
    able = plan.backbone.capability("gradient_checkpointing")
    train, gradient, init = spec.train, spec.gradient, spec.backbone.adapter.init
    offered: list[tuple[bool, tuple[str, ...]]] = [
        (able and not train.gradient_checkpointing, ("train.gradient_checkpointing=true",)),
        (gradient.recompute is not True, ("gradient.recompute=true",)),
        (gradient.mode != "last", ("gradient.mode=last", "gradient.k=null", "gradient.from_step=null")),
        (gradient.branches == "both" and spec.sampler.guidance_scale != 1, ("gradient.branches=conditional",)),
        (train.batch_size > 1, ("train.batch_size=1",)),
        (train.mixed_precision == "no", ("train.mixed_precision=bf16",)),
        (spec.frames.mode in ("all", "alt", "fml") and max(frames, default=1) <= 1, ("frames.mode=random",)),
        *_decoding(plan),
        *_own_options(plan),
        (spec.backbone.adapter.rank > 4 and init is None, ("backbone.adapter.rank=4",)),
        (spec.validation.clips > 0 and (spec.validation.batch_size or 2) > 1, ("validation.batch_size=1",)),
    ]
    return [overrides for apt, overrides in offered if apt]


def _decoding(plan: Plan) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """What the backbone's decoder can do, from what is exact to what is least so."""
    able, frames = plan.backbone.ability(DecodesForReward), plan.spec.frames
    modes = able.decode_modes(plan.backbone.options) if able is not None else ()
    yield "tiles" in modes and frames.decode_tiles == 1, ("frames.decode_tiles=2",)
    yield "precision" in modes and frames.decode_precision == "float32", ("frames.decode_precision=bf16",)
    yield "window" in modes and (frames.decode_window or _WINDOW + 1) > _WINDOW, (f"frames.decode_window={_WINDOW}",)


def _own_options(plan: Plan) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """What the backbone says of its own options."""
    for setting in plan.backbone.capability("memory_options"):
        name, _, value = setting.partition("=")
        yield str(getattr(plan.backbone.options, name)) != value, (f"backbone.options.{setting}",)


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
    for wanted in changes(resolve(spec, overrides)):
        progress(", ".join(wanted))
        try:
            total = estimate(spec, [*overrides, *wanted], found.device).total
        except VaderError:
            continue  # this spec cannot have it
        if total < found.total:
            made.append(Saving(wanted, total))
    return sorted(made, key=lambda saving: saving.total)
