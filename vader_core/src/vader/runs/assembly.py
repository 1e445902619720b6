"""What a run works with, live: weights, adapter, optimizer, method; and what of it a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from vader.backbones.kernels import compile_blocks
from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.seeding import derive
from vader.methods.context import RolloutContext
from vader.methods.query_counter import QueryCounter
from vader.protocols import Backbone, Method
from vader.resolve import adapter_source, build
from vader.resolve.plan import Plan
from vader.runs.device import DTYPES
from vader.runs.engine import Engine
from vader.runs.optimizer import adamw
from vader.runs.random_state import restore_rng_state, rng_state
from vader.runs.stateful import Registry
from vader.runs.train_step import Counters
from vader.storage import cache_home
from vader.weights import lora
from vader.weights.lora.ema import Average


@dataclass(frozen=True)
class Assembly:
    """The live objects of a run."""

    backbone: Backbone
    denoiser: nn.Module
    """Prepared."""
    parameters: list[nn.Parameter]
    """That train."""
    optimizer: Any
    """Prepared."""
    ema: Average | None
    method: Method
    context: RolloutContext
    """With the training rewards."""
    validating: RolloutContext
    """The same with the held-out rewards too."""
    encode: ConditioningCache


def assemble(plan: Plan, engine: Engine, require_room: Callable[[int], None]) -> Assembly:
    """Load a run's weights, put the adapter on, and prepare what trains.

    Args:
        plan: of the run.
        engine: of the run.
        require_room: told how many parameters train, before what trains takes memory.

    Raises:
        WeightsError: weights or the initial adapter cannot be loaded.
    """
    spec, device = plan.spec, engine.device
    dtype = DTYPES[spec.train.mixed_precision]
    with engine.main_first():
        backbone = build.assemble_backbone(plan, device, dtype)
        rewards = build.assemble_rewards(plan.rewards, device, dtype, plan.video, backbone)
        others = {key: part for key, part in plan.held_out.items() if key not in rewards}
        held_out = build.assemble_rewards(others, device, dtype, plan.video, backbone)
    engine.shard_rewards({**rewards, **held_out}, backbone)
    parameters = _inject(plan, backbone)
    require_room(sum(parameter.numel() for parameter in parameters))
    if spec.train.compile:
        compile_blocks(backbone.denoiser)
    encode = ConditioningCache(backbone, device, home=cache_home())
    denoiser, optimizer = engine.prepare(backbone.denoiser, adamw(spec.train, parameters, device))
    ema = Average(parameters, spec.train.ema_decay) if spec.train.ema_decay is not None else None
    context = build.assemble_context(plan, backbone, denoiser, rewards, device, engine.gather_objects)
    context.timer.told = engine.watch.phase
    if engine.in_step:
        context = replace(context, recompute=False)
    method: Method = plan.method.build(context=context)
    validating = replace(context, rewards={**rewards, **held_out}, shortcuts=None, queries=QueryCounter())
    return Assembly(backbone, denoiser, parameters, optimizer, ema, method, context, validating, encode)


def _inject(plan: Plan, backbone: Backbone) -> list[nn.Parameter]:
    """Put the adapter on the denoiser."""
    targets = plan.backbone.capability("lora_target_modules")
    init = plan.initial_adapter
    tensors = adapter_source.tensors(plan.backbone, init) if init is not None else None
    seed = derive(plan.spec.train.seed, "adapter")
    return lora.inject(
        backbone.denoiser, plan.spec.backbone.adapter, targets, seed, tensors, build.without_adapter(backbone)
    )


def register(live: Assembly, counters: Counters, engine: Engine) -> Registry:
    """Everything that a checkpoint keeps of a run."""
    denoiser, optimizer, method, objective = live.backbone.denoiser, live.optimizer, live.method, live.context.objective
    kept = Registry()
    kept.register("adapter", "folder", lambda: partial(lora.save, denoiser), partial(lora.load_into, denoiser))
    kept.register("optimizer", "training", optimizer.state_dict, optimizer.load_state_dict)
    kept.register("scaler", "training", *_optional(engine.scaler))
    kept.register("average", "training", *_optional(live.ema))
    kept.register("methods", "training", method.state_dict, method.load_state_dict, by_process=True)
    if objective.scales:
        kept.register("scales", "training", objective.state_dict, objective.load_state_dict)
    kept.register("rng", "process", rng_state, restore_rng_state)
    kept.register("counters", "manifest", partial(asdict, counters), counters.load)
    return kept


def _optional(owner: torch.amp.GradScaler | Average | None) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """How what a run may do without is saved and restored: as None without it."""

    def restore(state: Any) -> None:
        if owner is not None and state is not None:
            owner.load_state_dict(state)

    return (lambda: owner.state_dict() if owner is not None else None), restore
