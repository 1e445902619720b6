"""No process of a run waits for ever in silence: each knows where it is, and ends with a word when it gets no further.

Where a process is (optimizer step and phase) is also in a file beside the one through which the processes of
``vader train --processes N`` meet, so that its launcher can say where one was that has died.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from vader.runs.launch import STALLED, STORE, position_file

_SHORTEST_LOOK = 0.05


class Watch:
    """Where a process of several is; ends it when it makes no progress.

    Args:
        rank: of this process.
        processes: of the run.
        timeout: seconds in one phase after which the process ends.
    """

    def __init__(self, rank: int, processes: int, timeout: float) -> None:
        self._rank, self._processes, self._timeout = rank, processes, timeout
        self._step: int | None = None
        self._phase, self._since, self._ended = "loading", time.monotonic(), threading.Event()
        self._file: int | None = None
        if processes > 1:
            self._open()
            threading.Thread(target=self._look, name="vader watch", daemon=True).start()

    def _open(self) -> None:
        store = os.environ.get(STORE)
        if store is not None:
            path = position_file(Path(store).parent, self._rank)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._write()

    @property
    def position(self) -> str:
        """Optimizer step, counted from 1, and phase."""
        where = f"in optimizer step {self._step}" if self._step is not None else "before the first optimizer step"
        return f"{where}, {self._phase}"

    def phase(self, name: str) -> None:
        """A phase begins."""
        self._phase, self._since = name, time.monotonic()
        self._write()

    def step(self, step: int) -> None:
        """An optimizer step begins, counted from 1."""
        self._step = step
        self.phase("begin")

    def end(self) -> None:
        """The run is over, and what comes next in this process is not watched."""
        self._ended.set()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self) -> None:
        if self._file is not None:
            os.pwrite(self._file, self.position.ljust(120).encode(), 0)

    def _look(self) -> None:
        while not self._ended.wait(max(_SHORTEST_LOOK, min(5.0, self._timeout / 10))):
            if time.monotonic() - self._since > self._timeout:
                print(
                    f"error: process {self._rank} of {self._processes} has made no progress for {self._timeout:g} s "
                    f"(train.timeout) {self.position}: it hangs, or waits for one that does. "
                    "The last checkpoint stands; go on with --resume.",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(STALLED)
