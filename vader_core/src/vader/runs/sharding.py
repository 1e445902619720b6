"""Weights shared out among processes: torch's ``fully_shard`` on the blocks of frozen networks.

Each process holds its share of every block and has a block whole only while it runs. Adapters are small and stay whole
in every process, so optimizer, checkpoints and adapter files are those of a run without sharding; their gradients are
averaged once in an optimizer step. What is outside the blocks stays whole too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from vader.backbones.kernels import blocks_of
from vader.errors import LaunchError, Problem, SpecError
from vader.spec.train import ShardingSpec


def asked_by_accelerate(environment: Mapping[str, str]) -> ShardingSpec | None:
    """The sharding that a user's own configuration of accelerate asks for, which its launcher puts in the environment.

    Raises:
        LaunchError: it asks for DeepSpeed.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise LaunchError(
            "accelerate's configuration asks for DeepSpeed, which vader does not use. Use FSDP there, "
            "or 'train.sharding: {strategy: full}' in the spec."
        )
    if environment.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    strategy = _STRATEGIES.get(environment.get("FSDP_SHARDING_STRATEGY", "").upper(), "full")
    offload = "cpu" if environment.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true" else "none"
    return ShardingSpec.model_validate({"strategy": strategy, "offload": offload})


_STRATEGIES = {
    **dict.fromkeys(("NO_SHARD", "3"), "none"),
    **dict.fromkeys(("HYBRID_SHARD", "4", "HYBRID_SHARD_ZERO2", "5"), "hybrid"),
}
"""What accelerate calls strategies, of which all others share out among all processes."""


class Sharder:
    """Shares out networks among the processes of a run.

    Args:
        spec: a strategy other than none.
        device: of this process.
        processes: of the run.
    """

    def __init__(self, spec: ShardingSpec, device: torch.device, processes: int) -> None:
        self._mesh = _mesh(spec, device, processes)
        self._policy = CPUOffloadPolicy() if spec.offload == "cpu" else OffloadPolicy()

    def shard(self, network: nn.Module, path: str) -> None:
        """Share out the frozen weights of a network's blocks, in place.

        Args:
            network: whole, with its adapter; parameters that train stay as they are.
            path: what asks for it, for the error.

        Raises:
            SpecError: it does not say which blocks repeat.
        """
        blocks = [block for block in blocks_of(network) if any(True for _ in block.parameters())]
        if not blocks:
            message = f"{type(network).__name__} does not say which of its blocks repeat, and cannot be shared out."
            raise SpecError([Problem(path, f"{message} Use strategy: none.")])
        whole = {parameter for parameter in network.parameters() if parameter.requires_grad}
        for block in reversed(blocks):  # those inside of others first
            for parameter in block.parameters():
                if not parameter.is_contiguous():
                    parameter.data = parameter.data.contiguous()
            fully_shard(
                block,
                mesh=self._mesh,
                reshard_after_forward=True,
                offload_policy=self._policy,
                ignored_params=whole & set(block.parameters()),
            )

    def shard_denoiser(self, denoiser: nn.Module, *, recompute: bool) -> ShardedDenoiser:
        """Share out a denoiser, or each of the experts behind one.

        Args:
            denoiser: whole, with its adapter.
            recompute: calls with gradient are made again in backward.
        """
        self.shard(denoiser, "train.sharding.strategy")
        for network in _networks(denoiser):  # makes the blocks of a network one unit, whose copying overlaps computing
            fully_shard(network, mesh=self._mesh, ignored_params=set(network.parameters()))
        return ShardedDenoiser(denoiser, recompute=recompute)


def _networks(denoiser: nn.Module) -> list[nn.Module]:
    """The outermost modules that the blocks lie in side by side: the denoiser, or its experts."""
    experts = getattr(denoiser, "experts", None)
    return list(experts.values()) if isinstance(experts, Mapping) else [denoiser]


def _mesh(spec: ShardingSpec, device: torch.device, processes: int) -> DeviceMesh:
    """All processes in a row, or those of a machine in a row and a row for each machine."""
    if spec.strategy == "full":
        return init_device_mesh(device.type, (processes,), mesh_dim_names=("shard",))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if processes % beside:
        message = f"hybrid needs as many processes on each machine; found {processes} in all and {beside} on this one."
        raise SpecError([Problem("train.sharding.strategy", f"{message} Use full.")])
    shape = (processes // beside, beside)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


class ShardedDenoiser(nn.Module):
    """A denoiser whose blocks are shared out, for training in several processes.

    Args:
        denoiser: its blocks are shared out.
        recompute: calls with gradient are made again in backward. Each is then a forward and a backward pass of its own
            (reentrant), in which no more than a block or two is whole at a time, however many calls there are.
    """

    def __init__(self, denoiser: nn.Module, *, recompute: bool) -> None:
        super().__init__()
        self.denoiser, self._recompute = denoiser, recompute
        self._synchronised = True
        if recompute:
            for block in denoiser.modules():
                if isinstance(block, FSDPModule) and block is not denoiser:
                    block.register_forward_hook(_let_go)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """See the denoiser."""
        if not self._recompute or not torch.is_grad_enabled():
            return self.denoiser(*arguments, **named)
        names, first = tuple(named), len(arguments)

        def call(_: Tensor, *given: Any) -> Any:
            return self.denoiser(*given[:first], **dict(zip(names, given[first:], strict=True)))

        # the adapter's gradient is wanted even where no input has one
        wanted = torch.zeros((), requires_grad=True)
        return checkpoint(call, wanted, *arguments, *named.values(), use_reentrant=True)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay in their processes for as long as the context lasts."""
        self._synchronised = False
        try:
            yield
        finally:
            self._synchronised = True

    def synchronise(self) -> None:
        """Average the gradients of what trains over all processes, unless :meth:`no_sync` holds."""
        if not self._synchronised:
            return
        parameters = [parameter for parameter in self.denoiser.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(joined)
        joined /= torch.distributed.get_world_size()
        parts = torch.split(joined, [one.numel() for one in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()


def _let_go(block: nn.Module, arguments: Any, output: Any) -> None:
    """fully_shard keeps what is made again in backward whole, for the backward pass that it takes to come at once."""
    assert isinstance(block, FSDPModule)
    if torch.is_grad_enabled():
        block.reshard()
