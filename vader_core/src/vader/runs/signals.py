"""Stopping a run in good order: the signals that ask for an end are noted, the run saves and ends by itself."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name))
"""A scheduler's word, Ctrl-C, a closed terminal, Ctrl-backslash."""
_URGENT = ("SIGINT", "SIGQUIT")


class StopSignals:
    """While entered, the first of :data:`ENDINGS` sets :attr:`received`; a second one from the keyboard interrupts.

    A signal that is ignored stays so: ``nohup`` ignores SIGHUP, so that a run outlives its terminal.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDINGS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received in _URGENT and name in _URGENT:
            raise KeyboardInterrupt
        self.received = name
