"""Live bytes: which tensors exist at each moment, by what made them. Works on real and on fake tensors alike."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

_DEVICE = torch.ops.prim.device.default
OTHER = "other"
"""Row of what is used without having been made under watch, such as weights in a closure."""


@dataclass(frozen=True)
class Peak:
    """The moment with the most live bytes.

    Args:
        phase: what ran then.
        rows: bytes by row at that moment; they add up to :attr:`total`.
    """

    phase: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Live bytes at that moment."""
        return sum(self.rows.values())


@dataclass(frozen=True)
class Account:
    """What was seen in a stretch of time.

    Args:
        peak: the moment with the most live bytes.
        most: the most bytes that each row ever had; their moments differ.
        phases: the most bytes that were alive while each phase ran.
    """

    peak: Peak
    most: Mapping[str, int]
    phases: Mapping[str, int] = field(default_factory=dict)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every operation under it, forward and backward, and accounts for the storages that are alive.

    A storage counts once, however many tensors share it, from its making until its last tensor is gone. Tensors on
    another device than the watched one do not count. What an operation takes and gives back inside (workspaces) is
    not seen.

    Args:
        device: type of the device whose bytes are counted.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device, self.phase = device, OTHER
        self._peaks: dict[str, Peak] = {}
        self._most: dict[str, int] = {}
        self._alive: dict[int, tuple[str, int]] = {}
        self._rows: Counter[str] = Counter()
        self.total = 0

    @contextmanager
    def running(self, phase: str) -> Iterator[None]:
        """What is made inside belongs to a phase, which is its row."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def hold(self, tensors: Iterable[Tensor], row: str) -> None:
        """Put storages into a row, wherever they were counted before."""
        for tensor in tensors:
            if device_of(tensor).type != self.device:
                continue
            key = tensor.untyped_storage()._cdata
            if key in self._alive:
                before, size = self._alive[key]
                self._add(before, -size)
                self._alive[key] = (row, size)
                self._add(row, size)
            else:
                self._register(tensor, row)
        self._look()

    def account(self) -> Account:
        """What was seen since the last account; what is alive stays counted."""
        phases = {phase: peak.total for phase, peak in self._peaks.items()}
        seen = Account(max(self._peaks.values(), key=lambda peak: peak.total, default=Peak()), self._most, phases)
        self._peaks, self._most = {}, {row: size for row, size in self._rows.items() if size}
        return seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE:
            return device_of(args[0])
        for tensor in tensors_in(args):
            self._note(tensor, OTHER)
        output = func(*args, **(kwargs or {}))
        for tensor in tensors_in((output,)):
            self._note(tensor, self.phase)
        self._look()
        return output

    def _note(self, tensor: Tensor, row: str) -> None:
        if device_of(tensor).type == self.device and tensor.untyped_storage()._cdata not in self._alive:
            self._register(tensor, row)

    def _register(self, tensor: Tensor, row: str) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._alive[key] = (row, storage.nbytes())
        self._add(row, storage.nbytes())
        weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        row, size = self._alive.pop(key)
        self._add(row, -size)

    def _add(self, row: str, size: int) -> None:
        self._rows[row] += size
        self.total += size
        self._most[row] = max(self._most.get(row, 0), self._rows[row])

    def _look(self) -> None:
        if self.total > self._peaks.get(self.phase, Peak()).total:
            self._peaks[self.phase] = Peak(self.phase, {row: size for row, size in self._rows.items() if size})


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among the arguments or results of an operation, and in their lists."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


def device_of(tensor: Tensor) -> torch.device:
    """Where a tensor is; asked of a fake one, `tensor.device` would be an operation under every mode."""
    return tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device


def is_fake(tensor: object) -> bool:
    """Whether a tensor has a shape and no bytes."""
    return isinstance(tensor, FakeTensor)


def storages(module: torch.nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]
