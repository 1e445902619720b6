"""The rule for a run's folder on several machines: all of them see one folder, and the main process writes."""

from __future__ import annotations

import secrets
import socket
import time

from vader.errors import LaunchError
from vader.runs.engine import Engine
from vader.runs.folder import RunFolder

START = "start"
"""Entry of ``environment.json`` that no two starts share."""
_PATIENCE = 60.0
"""Seconds in which a network file system shows a machine what another has written."""


def mark_of_start() -> str:
    """What names a start of a run."""
    return secrets.token_hex(8)


def require_common(folder: RunFolder, engine: Engine, patience: float = _PATIENCE) -> None:
    """See in every process what the main one has written into the run's folder.

    Args:
        folder: of the run, its ``environment.json`` written by the main process.
        engine: of the run; all processes come here, together.
        patience: seconds that a process waits for it.

    Raises:
        LaunchError: a machine has another folder of that name.
    """
    if engine.num_processes == 1:
        return
    wanted = engine.from_main([folder.read_environment().get(START)])[0]
    deadline = time.monotonic() + patience
    while not (seen := folder.read_environment().get(START) == wanted) and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = engine.gather_objects([None if seen else f"process {engine.process_index} on {socket.gethostname()}"])
    if any(blind):
        raise LaunchError(
            f"output: {str(folder.path)!r} is not one folder for all processes: what the main one wrote is not there "
            f"for {', '.join(filter(None, blind))}. Resuming needs its checkpoints on every machine: give an absolute "
            "path on a volume that all of them mount."
        )
