"""The life line of a process to the launcher that started it: when the launcher is gone, the process saves and ends."""

from __future__ import annotations

import os
import signal
import threading
import time

LAUNCHER = "VADER_LAUNCHER"
"""Environment variable: process id of the ``vader train --processes N`` that started this process."""
_LOOK_EVERY = 0.5
_GRACE = 120.0
"""Seconds in which the process may save; then it is ended, because it may wait for others that are gone."""


def hold() -> None:
    """Watch the launcher from a thread, if a launcher started this process: ours, or torch's."""
    said = os.environ.get(LAUNCHER)
    if said is None and "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    parent = int(said) if said is not None and said.isdigit() else os.getppid()
    if parent != os.getppid() and _alive(parent):  # started by one of the run's processes, not by the launcher
        return
    threading.Thread(target=_watch, args=(parent,), name="vader life line", daemon=True).start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)
