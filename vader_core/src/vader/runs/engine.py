"""The engine of a run: its device and its processes. The only module that imports accelerate."""

from __future__ import annotations

import atexit
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, AutocastKwargs, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from vader.backbones.kernels import blocks_of
from vader.errors import ComponentError, LaunchError, PeerLost, blame
from vader.resolve.machine import on_cpu
from vader.resolve.networks import networks
from vader.runs.launch import require_world, started
from vader.runs.meeting import join, lost
from vader.runs.sharding import ShardedDenoiser, Sharder, asked_by_accelerate
from vader.runs.watch import Watch
from vader.spec import RunSpec

Value = TypeVar("Value")


class Engine:
    """What a run needs of device and processes.

    Autocast is off: frozen weights have the run's precision and each library keeps in float32 what it must, so that a
    clip is computed in training as it is in inference.

    Args:
        spec: of the run; :func:`vader.resolve.machine.machine_fits` has nothing against it.

    Raises:
        LaunchError: the processes that a launcher started do not find each other.
    """

    def __init__(self, spec: RunSpec) -> None:
        AcceleratorState._reset_state()  # a process may make several runs, each with a precision of its own
        arguments: dict[str, Any] = {}
        if spec.trackers:
            arguments = {"log_with": list(spec.trackers), "project_dir": spec.output}
        longest = timedelta(seconds=spec.train.timeout + _MORE)
        arguments["kwargs_handlers"] = [
            InitProcessGroupKwargs(timeout=longest),
            DistributedDataParallelKwargs(broadcast_buffers=False),
            AutocastKwargs(enabled=False),
        ]
        theirs = asked_by_accelerate(os.environ)
        self.sharding = theirs or spec.train.sharding
        self.configured = theirs is not None
        try:
            if on_cpu(spec) or torch.cuda.is_available():
                join("gloo" if on_cpu(spec) else "nccl", longest)
            with _without_plugins():
                precision = spec.train.mixed_precision
                self._accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu(spec), **arguments)
        except ValueError as error:
            raise LaunchError(f"accelerate cannot join {started() or 1} processes: {error}.") from error
        self._trackers, self._logging = spec.trackers, False
        require_world(self._accelerator.num_processes)
        self.watch = Watch(self.process_index, self.num_processes, spec.train.timeout)
        shared = self.sharding.strategy != "none" and self.num_processes > 1
        self._sharder = Sharder(self.sharding, self.device, self.num_processes) if shared else None
        self._sharded: ShardedDenoiser | None = None
        self._synchronising, self._sent, self._gradient_bytes = True, 0, 0
        self._recompute = spec.gradient.recompute is not False and not spec.train.gradient_checkpointing
        _leave_at_exit()

    # -- where and who

    @property
    def device(self) -> torch.device:
        """Of this process."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def num_processes(self) -> int:
        """How many processes make the run together."""
        return int(self._accelerator.num_processes)

    @property
    def process_index(self) -> int:
        """Which of them this one is, from 0."""
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and fires events."""
        return bool(self._accelerator.is_main_process)

    @property
    def is_first_here(self) -> bool:
        """Whether this process is the first of the run's on its machine."""
        return bool(self._accelerator.is_local_main_process)

    @property
    def in_step(self) -> bool:
        """Whether all must call the same networks as often, because they share out their weights."""
        return self._sharder is not None

    def wait(self) -> None:
        """Until every process has come here."""
        with self.together():
            self._accelerator.wait_for_everyone()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Processes talk to each other in the block.

        Raises:
            PeerLost: one of them is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.num_processes > 1 and not isinstance(error, PeerLost) and lost(error):
                raise PeerLost(
                    "another process of the run has ended, or cannot be reached any more; "
                    f"process {self.process_index} of {self.num_processes} waited for it {self.watch.position}."
                ) from error
            raise

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Processes work together in the block; after it, none is watched any more.

        Raises:
            PeerLost: one of them is gone.
        """
        try:
            with self.together():
                yield
        finally:
            self.watch.end()

    def main_first(self) -> AbstractContextManager[None]:
        """The main process runs the block before the others do."""
        context: AbstractContextManager[None] = self._accelerator.main_process_first()
        return context

    # -- what is prepared

    def prepare(self, denoiser: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Denoiser and optimizer for training in these processes and this precision.

        Where weights are shared out, a prepared denoiser makes its calls again in backward by itself.
        """
        trained = (parameter for group in optimizer.param_groups for parameter in group["params"])
        self._gradient_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
        if self._sharder is not None:
            self._sharded = self._sharder.shard_denoiser(denoiser, recompute=self._recompute)
            return self._sharded, self._accelerator.prepare(optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            with self.together():
                prepared, stepper = self._accelerator.prepare(denoiser, optimizer)
        return prepared, stepper

    def prepare_for_inference(self, denoiser: nn.Module) -> nn.Module:
        """A denoiser that does not train."""
        if self._sharder is not None:
            return self._sharder.shard_denoiser(denoiser, recompute=False)
        prepared: nn.Module = self._accelerator.prepare_model(denoiser, evaluation_mode=True)
        return prepared

    def shard_rewards(self, rewards: Mapping[str, object], backbone: object) -> None:
        """Share out the networks of rewards, if that is asked for; those without blocks that repeat stay whole.

        Args:
            rewards: by key.
            backbone: whose networks are not theirs, though they may know it.
        """
        if self._sharder is None or not self.sharding.rewards:
            return
        others = {id(module) for network in networks(backbone).values() for module in network.modules()}
        for key, reward in rewards.items():
            for network in networks(reward).values():
                if id(network) not in others and blocks_of(network):
                    self._sharder.shard(network, f"train.sharding.rewards, {key}")

    # -- an optimizer step: see vader.runs.train_step.StepEngine

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Of the loss, in fp16."""
        scaler: torch.amp.GradScaler | None = self._accelerator.scaler
        return scaler

    def backward(self, loss: Tensor) -> None:
        """Back-propagate, scaled in fp16."""
        with self.together():
            self._accelerator.backward(loss)
            self._sent += self._gradient_bytes if self._synchronising else 0
            if self._sharded is not None:
                self._sharded.synchronise()

    @contextmanager
    def no_sync(self, module: nn.Module) -> Iterator[None]:
        """Gradients stay in their processes for as long as the context lasts."""
        self._synchronising = False
        try:
            with self._accelerator.no_sync(module):
                yield
        finally:
            self._synchronising = True

    def sent(self) -> dict[str, float]:
        """Bytes of gradients that a process has averaged with the others since the last call; none in one process."""
        sent, self._sent = self._sent, 0
        return {"communication/gradient_bytes": float(sent)} if self.num_processes > 1 else {}

    def clip_grad_norm(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """Clip the norm of all gradients together; the norm before."""
        norm: Tensor = self._accelerator.clip_grad_norm_(parameters, limit)
        return norm

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one after the other."""
        with self.together():
            gathered: Tensor = self._accelerator.gather(tensor)
        return gathered

    def gather_objects(self, values: list[Value]) -> list[Value]:
        """The small values of all processes, by rank."""
        with self.together():
            gathered: list[Value] = gather_object(values)
        return gathered

    def to_main(self, values: list[Value]) -> list[Value]:
        """The values of all processes, by rank, in the main process; none in the others."""
        if self.num_processes == 1:
            return values
        parts: list[Any] | None = [None] * self.num_processes if self.is_main else None
        with self.together():
            torch.distributed.gather_object(values, parts)
        return [value for part in parts or () for value in part]

    def from_main(self, values: list[Value]) -> list[Value]:
        """The main process's values, in every process."""
        with self.together():
            return list(broadcast_object_list([values])[0])

    # -- trackers

    def start_trackers(self, config: Mapping[str, Any]) -> None:
        """Begin to log.

        Raises:
            ComponentError: a tracker refuses.
        """
        try:
            with blame(f"the tracker {' or '.join(self._trackers)}"):
                self._accelerator.init_trackers("vader", config=dict(config))
        except ComponentError as error:
            advice = "Log in as it asks, or take it out of 'trackers'."
            raise ComponentError(f"{str(error).rstrip('.')}. {advice}") from error.__cause__
        self._logging = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Pass figures on to the trackers; from those that fail on the way, the run goes on without."""
        if self._logging:
            self._or_without(lambda: self._accelerator.log(dict(values), step=step))

    def tell_trackers(self, say: Callable[[str, Any], None]) -> None:
        """Have something said to each tracker, by its name and in its own words; see :meth:`log`."""
        for tracker in self._accelerator.trackers if self._logging else ():
            self._or_without(functools.partial(say, tracker.name, tracker.tracker))

    def finish_trackers(self) -> None:
        """End what was begun."""
        if self._logging:
            for tracker in self._accelerator.trackers:
                self._or_without(tracker.finish)
            self._logging = False

    def _or_without(self, call: Callable[[], object]) -> None:
        try:
            with blame(f"the tracker {' or '.join(self._trackers)}"):
                call()
        except ComponentError as error:
            self._logging = False
            warnings.warn(f"{str(error).rstrip('.')}. The run goes on without it.", stacklevel=2)


@contextmanager
def _without_plugins() -> Iterator[None]:
    """accelerate does not see the sharding that its own configuration asks for: the run does it, on every device."""
    name = "ACCELERATE_USE_FSDP"
    said = os.environ.pop(name, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[name] = said


_MORE = 60.0
"""Seconds that processes go on waiting for each other after a run's own watch should have ended it."""


@functools.cache
def _leave_at_exit() -> None:
    """The processes' group lasts as long as they do: torch cannot join a second, and a start may make several runs."""
    atexit.register(lambda: PartialState().destroy_process_group())
