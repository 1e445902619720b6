"""What an optimizer step really takes: live tensors and the allocator's account, of the trainer's real objects."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vader.diffusion.conditioning import ConditioningCache
from vader.estimation.memory_tracker import Account, LiveBytes
from vader.estimation.watched_step import watch_step
from vader.protocols import Backbone, Reward
from vader.resolve import build
from vader.resolve.components import ResolvedComponent
from vader.resolve.plan import Plan
from vader.resolve.validate import resolve
from vader.runs.device import DTYPES
from vader.runs.engine import Engine
from vader.runs.train_step import Counters, TrainStep
from vader.weights import lora


@dataclass(frozen=True)
class Measured:
    """Bytes of a real step.

    Args:
        total: live tensors at the worst moment.
        allocated: held before it and allocated in it, at the worst moment, as the allocator reports: live tensors, and
            workspaces inside operations.
        weights: of each of the backbone's networks, by attribute.
        adapter: of its parameters.
        gradient: of their gradients.
        state: of the optimizer.
    """

    total: int
    allocated: int
    weights: dict[str, int]
    adapter: int
    gradient: int
    state: int


def _built(plan: Plan) -> tuple[Backbone, dict[str, Reward], list[torch.nn.Parameter]]:
    device, dtype = torch.device("cpu"), DTYPES[plan.spec.train.mixed_precision]
    backbone = build.assemble_backbone(plan, device, dtype)
    rewards = build.assemble_rewards(plan.rewards, device, dtype)
    part: ResolvedComponent = plan.backbone
    targets = part.capability("lora_target_modules")
    return backbone, rewards, lora.inject(backbone.denoiser, plan.spec.backbone.adapter, targets, 0)


def measure(spec: dict) -> Measured:
    """Take two optimizer steps; the second is measured, as the first makes the optimizer's state."""
    before = _alive()
    plan = resolve(spec)
    engine = Engine(plan.spec)
    backbone, rewards, parameters = _built(plan)
    optimizer = torch.optim.AdamW(parameters, lr=plan.spec.train.learning_rate)
    denoiser, prepared = engine.prepare(backbone.denoiser, optimizer)
    context = build.assemble_context(plan, backbone, denoiser, rewards, engine.device)
    method = plan.method.build(context=context)
    encode, gradients = ConditioningCache(backbone, engine.device), {}
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(lambda p: gradients.update({id(p): _bytes([p.grad])}))
    optimization = TrainStep(
        plan.spec.train, engine, denoiser, prepared, parameters, method, plan.prompts, encode, Counters(),
        context.timer, context.objective,
    )  # fmt: skip
    optimization.step(0)
    gc.collect()
    held = _alive() - before
    live = _Live()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, live:
            optimization.step(1)
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
    names = ("denoiser", "text_encoder", "vae")
    own = {id(parameter) for parameter in parameters}
    weights = {
        name: _bytes([p for p in [*module.parameters(), *module.buffers()] if id(p) not in own])
        for name, module in ((name, getattr(backbone, name)) for name in names)
    }
    return Measured(
        held + live.highest,
        held + _highest(profiled),
        weights,
        _bytes(parameters),
        sum(gradients.values()),
        _bytes(state),
    )


class _Live(TorchDispatchMode):
    """Storages made under it, while they are alive: the sum at its highest. On purpose not the code under test."""

    def __init__(self) -> None:
        super().__init__()
        self.made: WeakKeyDictionary = WeakKeyDictionary()
        self.held: set[int] = set()
        self.highest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.made:
                self.made[tensor.untyped_storage()] = 0  # there before: counted as held
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.made.setdefault(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        self.highest = max(self.highest, sum(self.made.values()))
        return out


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that torch's allocator gave out while ``work`` ran, beyond those at its start."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            work()
    return _highest(profiled)


def watch(spec: dict) -> Account:
    """The rows of a real step."""
    plan = resolve(spec)
    backbone, rewards, parameters = _built(plan)
    training, _ = watch_step(plan, backbone, parameters, rewards, {}, LiveBytes())
    return training


def _highest(profiled: profile) -> int:
    """The most bytes that the allocator had given out beyond those at the start."""
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def _alive() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _bytes([item for item in gc.get_objects() if issubclass(type(item), Tensor)])


def _bytes(tensors: list[Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
