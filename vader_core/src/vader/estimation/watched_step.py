"""One optimizer step under watch: the trainer's own code, on whatever tensors it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.gradient import Window
from vader.diffusion.rollout import OnStep
from vader.diffusion.shortcuts import no_cache
from vader.estimation.memory_tracker import Account, LiveBytes, is_fake, storages
from vader.estimation.optimizers import InPlaceAdamW
from vader.methods.context import RolloutContext
from vader.protocols import Backbone, Branch, Conditioning, DecodePlan, LatentReward, Prompt, Reward
from vader.resolve import build
from vader.resolve.networks import networks
from vader.resolve.plan import Plan
from vader.runs.ahead import coming, encode_ahead
from vader.runs.train_step import Counters, TrainStep
from vader.runs.validation import chosen, score_clips
from vader.shapes import Frames, Latents
from vader.spec import TrainSpec
from vader.weights.lora.ema import Average

ADAPTER, GRADIENT, STATE = "adapter", "adapter's gradient", "optimizer state"
AVERAGE = "adapter's moving average"
ENCODING, SAMPLING, WINDOW = "text encoding", "denoising without gradient", "gradient window"
DECODING, REWARDS, UPDATE = "decoding", "rewards", "optimizer step"
_DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class WatchedContext(RolloutContext):
    """A context that says which phase runs, in backward too.

    Args:
        live: is told.
    """

    live: LiveBytes = field(kw_only=True)
    _sampled: dict[Any, int] = field(default_factory=dict, kw_only=True)

    def predict(self, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
        """See :class:`RolloutContext`. A fake call without gradient that can reach no new peak is not made again."""
        if torch.is_grad_enabled():
            with self.live.running(WINDOW):
                return super().predict(latents, timestep, branch)
        key = (latents.shape, *(tensor.shape for tensor in branch.values()))
        if is_fake(latents) and self.live.total <= self._sampled.get(key, -1):
            return torch.empty_like(latents, dtype=torch.float32)
        self._sampled[key] = max(self.live.total, self._sampled.get(key, 0))
        with self.live.running(SAMPLING):
            return super().predict(latents, timestep, branch)

    def sample(
        self, conditioning: Conditioning, seeds: Sequence[int], window: Window, on_step: OnStep | None = None
    ) -> Latents:
        """See :class:`RolloutContext`."""
        with self.live.running(WINDOW if torch.is_grad_enabled() else SAMPLING):
            return super().sample(conditioning, seeds, window, on_step)

    def decode(self, latents: Latents, frames: Sequence[int] | None, plan: DecodePlan | None = None) -> Frames:
        """See :class:`RolloutContext`."""
        self._in_backward(latents, WINDOW)
        with self.live.running(DECODING):
            return super().decode(latents, frames, plan)

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """See :class:`RolloutContext`."""
        self._in_backward(frames, DECODING)
        with self.live.running(REWARDS):
            return super().score(frames, prompts)

    def score_latents(self, latents: Latents, timestep: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """See :class:`RolloutContext`."""
        self._in_backward(latents, WINDOW)
        with self.live.running(REWARDS):
            return super().score_latents(latents, timestep, conditioning)

    def _in_backward(self, tensor: Tensor, phase: str) -> None:
        """When a tensor's gradient is there, what made it is next."""
        if tensor.requires_grad:
            tensor.register_hook(lambda _: setattr(self.live, "phase", phase))  # type: ignore[no-untyped-call]


class _WatchedEncoder(ConditioningCache):
    """A conditioning cache that says when it encodes."""

    def __init__(self, backbone: Backbone, live: LiveBytes) -> None:
        super().__init__(backbone, _DEVICE)
        self._live = live

    def __call__(self, prompts: Sequence[Prompt]) -> Conditioning:
        with self._live.running(ENCODING):
            return super().__call__(prompts)


class _Enough(Exception):
    """What comes next is as what has been."""


class _OneProcess:
    """A :class:`vader.runs.train_step.StepEngine` of one process.

    Args:
        live: is told when backward runs.
        single: whether there is one loss alone; of several the first is enough.
    """

    num_processes: int = 1
    process_index: int = 0
    scaler: torch.amp.GradScaler | None = None

    def __init__(self, live: LiveBytes, single: bool) -> None:
        self._live, self._single = live, single

    def backward(self, loss: Tensor) -> None:
        """Backward begins in the rewards.

        Raises:
            _Enough: further losses are to come.
        """
        with self._live.running(REWARDS):
            loss.backward()  # type: ignore[no-untyped-call]
        if not self._single:
            raise _Enough

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Nothing is synchronised."""
        return nullcontext()

    def gather(self, tensor: Tensor) -> Tensor:
        """Of one process."""
        return tensor

    def clip_grad_norm(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """As accelerate does it."""
        return torch.nn.utils.clip_grad_norm_(parameters, limit)


def watch_step(
    plan: Plan,
    backbone: Backbone,
    parameters: list[nn.Parameter],
    rewards: Mapping[str, Reward | LatentReward],
    held_out: Mapping[str, Reward | LatentReward],
    live: LiveBytes,
    running: Callable[[], AbstractContextManager[Any]] = nullcontext,
    *,
    host: torch.device | None = None,
) -> tuple[Account, Account | None]:
    """Take one optimizer step, that of a run in its course: the optimizer has its state already.

    Of several losses the first is back-propagated, on top of a gradient that is there already, as for the later ones.
    Then one batch of validation, when there is any.

    Args:
        plan: the judged spec.
        backbone: with its adapter.
        parameters: the adapter's.
        rewards: to train on.
        held_out: that judge validation besides.
        live: accounts.
        running: a context in which tensors are what they shall be.
        host: of an accelerator, where ``train.offload_activations`` moves what is kept for backward.

    Returns:
        What was seen in training and in validation, None without one.
    """
    context = build.assemble_context(plan, backbone, backbone.denoiser, rewards, _DEVICE)
    kept = {item.name: getattr(context, item.name) for item in fields(context)}
    shortcuts = replace(context.shortcuts, cache=no_cache) if context.shortcuts is not None else None
    kept |= {"shortcuts": shortcuts, "host": host if plan.spec.train.offload_activations else None}
    context = WatchedContext(**kept, live=live)
    for scale in context.objective.scales.values():
        scale.start([-1.0, 1.0])
    encode = _WatchedEncoder(backbone, live)
    with running(), live:
        _hold_weights(live, backbone, parameters, {**rewards, **held_out})
        optimizer = _optimizer(plan.spec.train, parameters, live)
        average = Average(parameters, plan.spec.train.ema_decay) if plan.spec.train.ema_decay is not None else None
        if average is not None:
            live.hold(cast("list[Tensor]", average.state_dict()["average"]), AVERAGE)
        live.account()
        _optimizer_step(plan, context, encode, optimizer, parameters, live)
        training = live.account()
        if plan.spec.validation.clips == 0:
            return training, None
        _validate(plan, replace(context, rewards={**rewards, **held_out}), encode)
        return training, live.account()


def _optimizer_step(
    plan: Plan,
    context: WatchedContext,
    encode: _WatchedEncoder,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    live: LiveBytes,
) -> None:
    """The trainer's own optimizer step, up to where it repeats itself; what encodes prompts is gone if it goes then."""
    spec, method = plan.spec.train, plan.method.build(context=context)
    single = spec.gradient_accumulation * method.passes == 1
    engine = _OneProcess(live, single)
    optimization = TrainStep(
        spec,
        engine,
        context.denoiser,
        optimizer,
        parameters,
        method,
        plan.prompts,
        encode,
        Counters(),
        context.timer,
        context.objective,
    )
    with live.running(ENCODING):
        if coming(plan, context.backbone, encode, optimization.prompts, 0):
            batches = optimization.prompts(0)
            used = [*chain.from_iterable(batches), *(_validated(plan)[0] if plan.spec.validation.clips else ())]
            deque(encode_ahead(context.backbone, encode, used), maxlen=0)
    with live.running(UPDATE):
        if single:
            optimization.step(0)
            return
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        live.hold([cast(Tensor, parameter.grad) for parameter in parameters], GRADIENT)
        with suppress(_Enough):
            optimization.step(0)
        engine.clip_grad_norm(parameters, spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _hold_weights(
    live: LiveBytes, backbone: Backbone, parameters: list[nn.Parameter], rewards: Mapping[str, Reward | LatentReward]
) -> None:
    """Put weights into rows: the adapter, then each network, the denoiser last, since others may be parts of it."""
    live.hold(parameters, ADAPTER)
    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
            lambda p: live.hold([cast(Tensor, p.grad)], GRADIENT)
        )
    taken = set(map(id, parameters))
    found = {f"weights: {name.replace('_', ' ')}": module for name, module in networks(backbone).items()}
    found |= {
        f"weights: reward {key}{f' ({name})' if len(networks(reward)) > 1 else ''}": module
        for key, reward in rewards.items()
        for name, module in networks(reward).items()
    }
    for row, module in sorted(found.items(), key=lambda item: item[1] is backbone.denoiser):
        frozen = [tensor for tensor in storages(module) if id(tensor) not in taken]
        taken |= set(map(id, frozen))
        live.hold(frozen, row)


def _optimizer(spec: TrainSpec, parameters: list[nn.Parameter], live: LiveBytes) -> torch.optim.Optimizer:
    """AdamW as the trainer has it, after a step that changes nothing but makes its state."""
    optimizer = InPlaceAdamW(parameters, eight_bits=spec.optimizer == "adamw_8bit")
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state = [value for each in optimizer.state.values() for value in each.values() if isinstance(value, Tensor)]
    live.hold(state, STATE)
    return optimizer


def _validated(plan: Plan) -> tuple[list[Prompt], list[int]]:
    """Prompts and seeds of one batch of validation."""
    spec = plan.spec.validation
    size = min(spec.batch_size or plan.spec.train.batch_size, spec.clips)
    prompts, seeds = chosen(spec, plan.validation_prompts)
    return prompts[:size], seeds[:size]


def _validate(plan: Plan, context: RolloutContext, encode: ConditioningCache) -> None:
    """One batch of validation."""
    prompts, seeds = _validated(plan)
    list(score_clips(context, encode, prompts, seeds, len(prompts)))
