"""A plan: a spec that has been judged, with the components it names. No weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vader.protocols import PromptSource, Video
from vader.resolve.components import ResolvedComponent
from vader.spec import RunSpec


@dataclass(frozen=True)
class Plan:
    """A spec that has been judged: resolved, its components known, its prompt sources open, no weight loaded.

    ``initial_adapter`` is where the adapter starts from; None for zero, and for one of the hub that was not downloaded.
    ``frozen_adapters`` are those that are fused, each with its scale and expert, save those of the hub that were not
    downloaded.
    ``notices`` is what a user should know of how the spec was read.
    """

    spec: RunSpec
    video: Video
    backbone: ResolvedComponent
    sampler: ResolvedComponent
    method: ResolvedComponent
    prompts: PromptSource
    validation_prompts: PromptSource
    rewards: Mapping[str, ResolvedComponent]
    held_out: Mapping[str, ResolvedComponent]
    initial_adapter: Path | None
    frozen_adapters: tuple[tuple[Path, float, str | None], ...] = ()
    notices: tuple[str, ...] = ()
