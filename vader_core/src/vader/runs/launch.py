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
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from vader.errors import LaunchError
from vader.runs.lifeline import LAUNCHER
from vader.runs.signals import ENDINGS

STORE = "VADER_STORE"
"""Environment variable: the file through which the processes that :func:`relaunch` starts find each other."""
STALLED = 75
"""Exit code of a process that ended because it made no progress."""
PEER_LOST = 76
"""Exit code of a process that ended because another one had."""


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


def relaunch(arguments: Sequence[str], processes: int, advice: str) -> int:
    """Run ``vader`` again with these arguments in several processes of this machine, and wait.

    They are started here, with the environment that torch's launcher would give them, because the launchers print stack
    traces of their own for a user's mistake, give a run half a minute to save, and on CPU accelerate's starts a single
    process. They meet through a file that only this user can read, and talk over the loopback interface: nothing
    listens to other machines. The signals that ask for an end are passed on: the processes save and end by themselves,
    as they do when this one dies (:mod:`vader.runs.lifeline`).

    Args:
        arguments: of the command.
        processes: how many.
        advice: what stands and what to do when one was killed.

    Returns:
        The exit code: of the process that ended the run, else of the first, which speaks for all.
    """
    command = [sys.executable, *_import_path(), "-m", "vader", *arguments]
    with ExitStack() as stack:
        meeting = stack.enter_context(TemporaryDirectory(prefix="vader-"))
        common = {**os.environ, STORE: str(Path(meeting) / "store"), LAUNCHER: str(os.getpid())}
        common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        common |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            common.setdefault(name, _loopback())
        said = [stack.enter_context(TemporaryFile()) for _ in range(processes - 1)]
        workers: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, frame: object) -> None:
            for worker in workers:
                with suppress(ProcessLookupError):
                    worker.send_signal(number)

        for number in ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, pass_on))
        for rank, err in zip(map(str, range(processes)), [None, *said], strict=True):
            # sessions of their own, so that Ctrl-C in a terminal reaches them once, from here
            environment = {**common, "RANK": rank, "LOCAL_RANK": rank}
            workers.append(subprocess.Popen(command, env=environment, stderr=err, start_new_session=True))
        hung = _wait(workers)
        positions = [_position(Path(meeting), rank) for rank in range(processes)]
        return _verdict([worker.returncode for worker in workers], hung, [None, *said], positions, advice)


def _import_path() -> list[str]:
    """What keeps ``-m`` from putting the current folder before the standard library, where it is not there already.

    Nobody who gives a spec means a ``json.py`` that lies in the folder where he stands.
    """
    return [] if {"", str(Path.cwd())} & set(sys.path) else ["-P"]


def position_file(meeting: Path, rank: int) -> Path:
    """Where a process writes which optimizer step and phase it is in."""
    return meeting / f"position-{rank}"


def _position(meeting: Path, rank: int) -> str:
    """Where a process was, for the end of a sentence; empty when it never said."""
    with suppress(OSError):
        return " " + position_file(meeting, rank).read_text(encoding="utf-8", errors="replace").strip()
    return ""


_EXPLAINED = (2, *(128 + number for number in ENDINGS))
"""Exit codes after which a process has said all there is to say."""
_GRACE, _SAVING = 20.0, 120.0
"""Seconds in which the others may notice that one has failed, or may save when one was stopped; one that was stopped
while it was loading leaves others that would wait for it for ever."""

_GRACE_OF_THE_STALLED = 2.0
"""The same, when the one that failed has waited for long already."""


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> set[int]:
    """Wait for all; those that did not end after another had failed are ended.

    Returns:
        The ranks of the latter.
    """
    deadline, hung = math.inf, set[int]()
    while None in (codes := [worker.poll() for worker in workers]):
        ends = [code for code in codes if code]
        if ends:
            failed = any(code not in _EXPLAINED[1:] for code in ends)
            grace = _GRACE_OF_THE_STALLED if STALLED in ends else _GRACE if failed else _SAVING
            deadline = min(deadline, time.monotonic() + grace)
        if time.monotonic() > deadline:
            for rank, worker in enumerate(workers):
                if worker.poll() is None:
                    hung.add(rank)
                    worker.kill()
        time.sleep(0.1)
    return hung


def _verdict(
    codes: Sequence[int], hung: set[int], said: Sequence[IO[bytes] | None], positions: Sequence[str], advice: str
) -> int:
    """Say what ended the run, if no process has said it, and give the exit code."""
    killed = {rank: -code for rank, code in enumerate(codes) if code < 0 and rank not in hung}
    for rank, number in killed.items():
        name = signal.Signals(number).name
        why = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        print(
            f"error: process {rank} of {len(codes)} was killed by {name}{why}{positions[rank]}, which ended the run. "
            f"{advice}",
            file=sys.stderr,
        )
    if STALLED in codes:
        for rank in sorted(hung):
            print(f"error: process {rank} of {len(codes)} was ended{positions[rank]}, where it hung.", file=sys.stderr)
    failed = [rank for rank, code in enumerate(codes) if code not in (0, PEER_LOST) and rank not in (*killed, *hung)]
    first_speaks = bool(failed) and failed[0] == 0 and STALLED not in codes  # who hung is told by where each got stuck
    if any(codes) and not killed and not first_speaks:
        for file in (said[rank] for rank in failed or range(len(codes))):
            if file is not None:
                file.seek(0)
                sys.stderr.write(file.read().decode(errors="replace"))
    if killed:
        return 128 + next(iter(killed.values()))
    return codes[failed[0]] if failed else max(map(abs, codes))


def _loopback() -> str:
    """The name of the loopback interface."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name.startswith("lo")), "lo")
