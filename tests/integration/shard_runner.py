"""Runs one after the other, their gradients and the most bytes of weights that were whole at a time written down.

Started by ``test_sharding.py`` under a launcher: ``-m tests.integration.shard_runner RUNS.json FOLDER``. The file holds
a list of ``{"spec": ..., "resume": ..., "name": ...}``; rank r writes ``FOLDER/NAME-r.pt``.
"""

from __future__ import annotations

from typing import Any

import torch
from tests.integration.rank_runner import gradients, main
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from vader.backbones.kernels import blocks_of
from vader.resolve.networks import networks as networks_of
from vader.runs.engine import Engine


def held(networks: list[nn.Module]) -> int:
    """Bytes of the weights that a process holds now: shares, and what is whole."""
    total = 0
    for parameter in {id(one): one for network in networks for one in network.parameters()}.values():
        local: Any = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        total += local.untyped_storage().size()
    return total


class Weights:
    """Watches a run's networks from when they are ready: ``whole`` bytes before, ``peak`` since."""

    def __init__(self) -> None:
        self.whole = self.peak = 0

    def watch(self, networks: list[nn.Module]) -> None:
        """Look whenever a block runs, forward or backward."""
        self.networks = networks

        def look(*_: Any) -> None:
            self.peak = max(self.peak, held(networks))

        for network in networks:
            for block in blocks_of(network):
                layer = next((one for one in block.modules() if isinstance(one, nn.Linear)), None)
                if layer is not None:
                    layer.register_forward_pre_hook(look)
                    layer.register_full_backward_pre_hook(look)


class Gathers(TorchDispatchMode):
    """Counts gatherings of weights, and adds up the bytes that they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d._allgather_base_.default:
            self.count, self.bytes = self.count + 1, self.bytes + args[0].numel() * args[0].element_size()
        return func(*args, **(kwargs or {}))


def watched(spec: dict[str, Any], *, resume: bool = False) -> dict[str, Any]:
    """Train: gradients by optimizer step, and the bytes."""
    weights = Weights()
    shard_rewards, prepare = Engine.shard_rewards, Engine.prepare
    judges: list[nn.Module] = []

    def note_rewards(engine: Engine, rewards: Any, backbone: Any) -> None:
        judges.extend(network for reward in rewards.values() for network in networks_of(reward).values())
        weights.whole += held(judges)
        shard_rewards(engine, rewards, backbone)

    def note_denoiser(engine: Engine, denoiser: nn.Module, optimizer: Any) -> Any:
        weights.whole += held([denoiser])
        made = prepare(engine, denoiser, optimizer)
        weights.watch([denoiser, *judges])
        return made

    Engine.shard_rewards, Engine.prepare = note_rewards, note_denoiser  # type: ignore[method-assign]
    try:
        with Gathers() as gathers:
            found: list[list[Tensor]] = gradients(spec, resume=resume)
    finally:
        Engine.shard_rewards, Engine.prepare = shard_rewards, prepare  # type: ignore[method-assign]
    return {"gradients": found, "whole": weights.whole, "peak": weights.peak, "gathers": (gathers.count, gathers.bytes)}


if __name__ == "__main__":
    main(watched)
