"""``vader train --processes 2`` of forked children: the launcher as it is, but for how it starts processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from tests.chaos.forks import ended, fork

from vader.cli import app
from vader.runs import launch, lifeline


def names_of(processes: int) -> list[str]:
    """The launcher and the ranks."""
    return ["launcher", *map(str, range(processes))]


class Forked:
    """What :mod:`vader.runs.launch` needs of ``subprocess.Popen``, with a fork."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stderr: IO[bytes] | None,
        start_new_session: bool,
        said: Path,
        prepare: Callable[[str], object],
    ) -> None:
        self.returncode: int | None = None

        def run() -> None:
            if start_new_session:
                os.setsid()
            for number in launch.ENDINGS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.environ.update(env)
            if stderr is not None:
                os.dup2(stderr.fileno(), 2)
            command_line(command[command.index("vader") + 1 :], lambda: prepare(env["RANK"]))

        self.pid = fork(run, said)
        with (said.with_name(f"{said.name}.pids")).open("a") as file:
            file.write(f"{self.pid}\n")

    def poll(self) -> int | None:
        """The exit code; None as long as it lives."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self.send_signal(signal.SIGKILL)


def command_line(arguments: Sequence[str], prepare: Callable[[], object]) -> None:
    """``vader`` in this process."""
    sys.argv = ["vader", *arguments]
    prepare()
    app.main()


def launched(file: Path, said: Path, prepare: Callable[[str], object] = str) -> int:
    """Start a run of two processes, and wait for it and for all of its processes.

    Args:
        file: the spec.
        said: where what a process was refused for is written.
        prepare: called in each process with its rank, before it begins.

    Returns:
        The launcher's exit code.
    """
    pids = said.with_name(f"{said.name}.pids")

    def start(command: Sequence[str], **rest: Any) -> Forked:
        return Forked(command, **rest, said=said, prepare=prepare)

    def run() -> None:
        patient = mock.patch.object(launch, "_SAVING", 20.0), mock.patch.object(lifeline, "_GRACE", 20.0)
        with mock.patch.object(launch, "subprocess", SimpleNamespace(Popen=start)), patient[0], patient[1]:
            command_line(["train", str(file), "--trust-code", "--resume", "--processes", "2"], int)

    code = ended(fork(run, said))
    deadline = time.monotonic() + 60
    while alive(pids):
        assert time.monotonic() < deadline, "the processes outlive their launcher"
        time.sleep(0.05)
    pids.unlink(missing_ok=True)
    return code


def alive(pids: Path) -> list[int]:
    """Those of the processes named in a file that have not ended."""
    found = []
    for pid in map(int, pids.read_text().split()) if pids.exists() else ():
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found
