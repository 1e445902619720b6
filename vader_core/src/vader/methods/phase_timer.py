"""How long the phases of an optimizer step take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class PhaseTimer:
    """Seconds spent in each phase since the last :meth:`read`.

    On CUDA they are the device's own, between events in its stream: a phase waits for nothing, :meth:`read` does.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.told: Callable[[str], None] = lambda phase: None
        """Told of every phase that begins."""
        self._phases: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.told(phase)
        start = self._now()
        try:
            yield
        finally:
            self._phases.append((phase, start, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds by phase; starts anew."""
        phases, self._phases = self._phases, []
        spent: dict[str, float] = {}
        for phase, start, end in phases:
            spent[phase] = spent.get(phase, 0.0) + self._between(start, end)
        return spent

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, start: Any, end: Any) -> float:
        if self._device.type != "cuda":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
