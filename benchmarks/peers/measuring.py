"""Operations, calls, bytes and time of a step."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from benchmarks.peers.worlds import World
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from vader.estimation.memory_tracker import LiveBytes

Step = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """Of one optimizer step.

    Args:
        flops: floating-point operations.
        calls: of the denoiser, those made again in backward included.
        saved: bytes that autograd has saved when the rollout and the reward are done, weights left out.
        held: bytes alive at the worst moment, beyond those before the step.
    """

    flops: int
    calls: int
    saved: int
    held: int


def cost(world: World, step: Step) -> Cost:
    """What a step takes; the gradient is gone afterwards."""
    clear(world)
    calls: list[int] = []
    hook = world.live.backbone.denoiser.register_forward_hook(lambda *_: calls.append(1))
    with FlopCounterMode(display=False) as counter:
        step()
    hook.remove()
    clear(world)
    saved = _saved(world, step)
    clear(world)
    return Cost(counter.get_total_flops(), len(calls), saved, _held(world, step))


def clear(world: World) -> None:
    """No gradient, no garbage."""
    for parameter in world.live.parameters:
        parameter.grad = None
    gc.collect()


def _saved(world: World, step: Step) -> int:
    """Storages packed before backward begins; checkpoints keep their inputs, and what they pack is theirs to drop."""
    weights = {tensor.untyped_storage()._cdata for tensor in _weights(world)}
    kept: dict[int, Tensor] = {}
    running = [True]

    def pack(tensor: Tensor) -> Tensor:
        if running[0]:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    backward = Tensor.backward

    def stop(*arguments: object, **more: object) -> object:
        running[0] = False
        return backward(*arguments, **more)  # type: ignore[arg-type]

    Tensor.backward = stop  # type: ignore[assignment, method-assign]
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            step()
    finally:
        Tensor.backward = backward  # type: ignore[method-assign]
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)


def _held(world: World, step: Step) -> int:
    with LiveBytes() as live:
        live.hold(_weights(world), "weights")
        live.account()
        before = live.total
        step()
        return live.account().peak.total - before


def _weights(world: World) -> list[Tensor]:
    backbone = world.live.backbone
    modules: list[torch.nn.Module] = [backbone.denoiser, backbone.vae, *backbone.text.encoders.values()]  # type: ignore[attr-defined]
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def processor_seconds(steps: Sequence[Step], rounds: int) -> list[list[float]]:
    """Seconds of processor time of each step in each round; they take turns, so that noise blurs all alike."""
    spent: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for turn in range(rounds):
        order = range(len(steps)) if turn % 2 == 0 else reversed(range(len(steps)))
        for index in order:
            start = time.process_time()
            steps[index]()
            spent[index].append(time.process_time() - start)
    return spent


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the paired ratios, and its quartiles."""
    found = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    low, middle, high = statistics.quantiles(found, n=4)
    return middle, low, high
