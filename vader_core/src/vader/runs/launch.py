"""Processes: whether the ones started are the ones asked for, and starting them."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile

from vader.errors import LaunchError


def started() -> int | None:
    """How many processes a launcher says it has started; None when no launcher speaks."""
    size = os.environ.get("WORLD_SIZE")
    return int(size) if size else None


def require_processes(asked: int | None) -> None:
    """Check the number of processes before anything is loaded.

    Raises:
        LaunchError: it is not the number asked for. accelerate's launcher starts a single process on CPU whatever
            number it is given, and says nothing.
    """
    world = started()
    if asked is not None and (world or 1) != asked:
        raise LaunchError(
            f"train.processes asks for {asked} processes, but {world or 1} started. "
            f"Use 'vader train SPEC --processes {asked}', or a launcher that starts {asked}."
        )
    if world is None and "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise LaunchError(
            "accelerate launch was asked for more than one process, but started one (as it does on CPU). "
            "Use 'vader train SPEC --processes N', or 'torchrun --nproc-per-node N -m vader train SPEC'."
        )


def require_world(joined: int) -> None:
    """Check that the processes that a launcher started have found each other.

    Raises:
        LaunchError: they have not, and each would train alone.
    """
    world = started() or 1
    if joined != world:
        raise LaunchError(
            f"the launcher started {world} processes, but {joined} joined the run. "
            "Set train.device to the device they share, or start one process."
        )


def relaunch(arguments: Sequence[str], processes: int) -> int:
    """Run ``vader`` again with these arguments in several processes of this machine, and wait.

    They are started here, with the environment that torch's launcher would give them, because the launchers print stack
    traces of their own for a user's mistake, give a run half a minute to save, and on CPU accelerate's starts a single
    process. SIGTERM and Ctrl-C are passed on: the processes save and end by themselves.

    Returns:
        The exit code: of the first process, which speaks for all, or of another that failed.
    """
    command = [sys.executable, "-m", "vader", *arguments]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
    common |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with ExitStack() as stack:
        said = [stack.enter_context(TemporaryFile()) for _ in range(processes - 1)]
        workers = [
            # sessions of their own, so that Ctrl-C in a terminal reaches them once, from here
            subprocess.Popen(
                command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=err, start_new_session=True
            )
            for rank, err in zip(map(str, range(processes)), [None, *said], strict=True)
        ]

        def pass_on(number: int, frame: object) -> None:
            for worker in workers:
                worker.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, pass_on))
        codes = [128 - code if code < 0 else code for code in _wait(workers)]
        if codes[0] not in (0, *_EXPLAINED):
            for file in said:
                file.seek(0)
                sys.stderr.write(file.read().decode(errors="replace"))
        return codes[0] or max(codes)


_EXPLAINED = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes after which the first process has said all there is to say."""
_GRACE = 20.0
"""Seconds in which the others may notice that one has failed; some would wait for it for ever."""


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    deadline = math.inf
    while None in (codes := [worker.poll() for worker in workers]):
        if any(code not in (None, 0, *_EXPLAINED[1:]) for code in codes):
            deadline = min(deadline, time.monotonic() + _GRACE)
        if time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    return [code for code in codes if code is not None]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
