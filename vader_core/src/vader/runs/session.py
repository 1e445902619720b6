"""A model ready to make clips: a spec or a run folder, opened without an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.seeding import derive
from vader.errors import CheckpointError, Problem, SpecError, WeightsError
from vader.methods.context import RolloutContext
from vader.protocols import Prompt
from vader.resolve import adapter_source, build
from vader.resolve.fit import prompts_fit
from vader.resolve.plan import Plan
from vader.resolve.validate import resolve
from vader.runs import checkpoint
from vader.runs.device import DTYPES
from vader.runs.engine import Engine
from vader.runs.folder import RunFolder
from vader.runs.long_prompts import readers
from vader.runs.source import run_folder
from vader.storage import cache_home
from vader.weights import lora


@dataclass(frozen=True)
class Session:
    """A context with the encoder of its prompts. ``adapter``: where the adapter came from, None for the base model."""

    plan: Plan
    context: RolloutContext
    encode: ConditioningCache
    adapter: Path | None
    engine: Engine

    @property
    def readers(self) -> dict[str, object]:
        """What reads prompts, by what a user calls it."""
        return readers(self.plan, self.context)

    def set_scale(self, scale: float) -> None:
        """Scale the adapter's update; 0 gives the base model bit for bit."""
        if self.adapter is not None:
            lora.set_scale(self.context.backbone.denoiser, scale)


def locate(source: Any, adapter: str | Path | None) -> tuple[Any, Path | None]:
    """The spec and the adapter meant by a source, which may be a run folder.

    Args:
        source: a spec in any form, or the path of a run folder.
        adapter: an adapter's folder, file or ``hub:owner/name[:file]``; None takes the run folder's own.

    Raises:
        RunFolderError: the folder is not that of a run, or is not there.
        WeightsError: it holds no adapter.
    """
    chosen = adapter_source.locate(adapter) if adapter is not None else None
    folder = run_folder(source)
    if folder is None:
        return source, chosen
    return folder.spec, chosen or newest_adapter(folder)


def newest_adapter(folder: RunFolder) -> Path:
    """The adapter of a run: the final one, or that of the newest sound checkpoint.

    Raises:
        WeightsError: the folder holds neither.
    """
    final = checkpoint.replaced(folder.adapter)
    if (final / lora.PEFT_FILE).is_file():
        return final
    found = checkpoint.newest(folder.checkpoints, lambda _: None)
    if found is None:
        raise WeightsError(
            f"{str(folder.path)!r} holds no adapter yet: it has no sound checkpoint. Train it, or name one."
        )
    return found.adapter


def _take_average(path: Path, parameters: Sequence[nn.Parameter]) -> None:
    """For an adapter of a checkpoint: the moving average instead, where the run has one, as its validations do."""
    try:
        found = checkpoint.verify(path.parent)
    except CheckpointError:
        return
    checkpoint.take_average(found, parameters)


def open_session(
    source: Any,
    overrides: Sequence[str],
    adapter: str | Path | None,
    *,
    scored: bool,
    prompts: Sequence[Prompt] = (),
    trust_code: bool = False,
) -> Session:
    """Load a model for making clips.

    Args:
        source: a spec in any form, or the path of a run folder.
        overrides: dotted ``path=value`` strings.
        adapter: an adapter's folder, file or name on the hub, in place of the run's own.
        scored: load the rewards, training and held-out.
        prompts: that clips will be made of, besides the spec's.
        trust_code: run code that a spec in a file, or another user's run folder, names outside its folder.

    Raises:
        SpecError: the spec is wrong.
        WeightsError: weights or adapter cannot be loaded.
    """
    spec_source, path = locate(source, adapter)
    own = ["backbone.adapter.init=null"] if path is not None else []  # what training started from need not be there
    plan = resolve(spec_source, [*overrides, *own], training=False, here=True, scored=scored, trust_code=trust_code)
    unfit = [Problem(path, message) for path, message in prompts_fit(plan.backbone, prompts, "prompts")]
    if unfit:
        raise SpecError(unfit, "the prompts given")
    engine = Engine(plan.spec)
    device, dtype = engine.device, DTYPES[plan.spec.train.mixed_precision]
    init = path or plan.initial_adapter
    shape = adapter_source.shape_of(plan.backbone, init) if init is not None else None
    backbone = build.assemble_backbone(plan, device, dtype)
    judges = {**plan.rewards, **plan.held_out} if scored else {}
    rewards = build.assemble_rewards(judges, device, dtype, plan.video, backbone)
    engine.shard_rewards(rewards, backbone)
    if shape is not None and init is not None:
        tensors = adapter_source.tensors(plan.backbone, init)
        seed = derive(plan.spec.train.seed, "adapter")
        parameters = lora.inject(backbone.denoiser, shape, (), seed, tensors, build.without_adapter(backbone))
        if adapter is None and path is not None:
            _take_average(path, parameters)
    denoiser = engine.prepare_for_inference(backbone.denoiser)
    context = replace(build.assemble_context(plan, backbone, denoiser, rewards, device), shortcuts=None)
    context.timer.told = engine.watch.phase
    return Session(plan, context, ConditioningCache(backbone, device, home=cache_home()), init, engine)
