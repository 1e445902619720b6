"""Starting, asking and ending the process of an isolated reward."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import vader
from vader import errors
from vader.errors import IsolationError, PathError
from vader.paths import user_path
from vader.plugins.isolation.channel import Channel, Closed

_FOLDER = Path(vader.__file__).parent
_LINES = 20
_NOT_PASSED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def _interpreter(python: str, label: str) -> str:
    """The interpreter that a spec means: a path where it has a slash, else a command that PATH knows.

    Raises:
        IsolationError: no file can have that path.
    """
    try:
        path = user_path(python)
    except PathError as error:
        raise IsolationError(f"{label}: {error}") from error
    return str(path.absolute()) if "/" in python else python


class Process:
    """A child that serves one reward.

    Args:
        python: the interpreter.
        label: what the reward is called, for errors.

    Raises:
        IsolationError: there is no such interpreter, or it cannot be started.
    """

    def __init__(self, python: str, label: str) -> None:
        self._label = f"isolated reward {label!r} ({python})"
        if os.name != "posix":
            raise IsolationError(f"{self._label}: rewards in another process need Linux or macOS.")
        interpreter = _interpreter(python, self._label)
        shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=shared, prefix="vader-")  # noqa: SIM115 (_end closes it)
        self._map: mmap.mmap | None = None
        ours, theirs = socket.socketpair()
        read, self._life = os.pipe()
        fds = (theirs.fileno(), read, self._file.fileno())
        script = str(_FOLDER / "plugins" / "isolation" / "child.py")
        command = [interpreter, "-u", script, str(_FOLDER), *map(str, fds)]
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED}
        try:
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=fds,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            os.close(self._life)
            ours.close()
            self._file.close()
            raise IsolationError(
                f"{self._label}: it cannot be started: {error.strerror}. Expected the path of a Python interpreter, "
                "such as /path/to/venv/bin/python."
            ) from error
        finally:
            theirs.close()
            os.close(read)
        self._channel = Channel(ours)
        self._said: deque[str] = deque(maxlen=_LINES)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=_drain, args=(self._process.stdout, self._said), daemon=True)
        self._reader.start()
        self.end = weakref.finalize(self, _end, self._process, self._reader, self._channel, self._life, self._file)

    def memory(self, size: int) -> mmap.mmap:
        """The shared memory, at least ``size`` bytes of it."""
        if self._map is None or len(self._map) < size:
            os.ftruncate(self._file.fileno(), size)
            self._map = mmap.mmap(self._file.fileno(), size)
        return self._map

    def ask(self, timeout: float, **message: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Args:
            timeout: seconds.
            message: the request.

        Raises:
            IsolationError: the process has ended, does not answer, or the reward raised; with its last lines.
            WeightsError: the reward raised that.
        """
        if not self.end.alive:
            raise IsolationError(f"{self._label}: it was ended. Start the run again.")
        try:
            self._channel.send(message)
            reply = self._channel.receive(timeout)
        except TimeoutError as error:
            self.end()
            raise IsolationError(
                f"{self._label}: no answer to {message['op']!r} within {timeout:g} s; it was ended. "
                f"Raise isolate.timeout if it needs longer.{self._last_lines()}"
            ) from error
        except Closed as error:
            code = self._wait()
            self.end()
            raise IsolationError(
                f"{self._label}: it ended ({code}) at {message['op']!r}.{self._last_lines()}"
            ) from error
        if "error" in reply:
            self._raise(reply)
        answer: dict[str, Any] = reply["answer"]
        return answer

    def _raise(self, reply: dict[str, Any]) -> None:
        if reply["kind"] == "WeightsError":
            raise errors.WeightsError(reply["text"])
        lines = str(reply["trace"]).strip().splitlines()[-_LINES:]
        raise IsolationError(f"{self._label}: it raised {reply['error']}.\n  " + "\n  ".join(lines))

    def _wait(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "still running, its channel closed"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _last_lines(self) -> str:
        return "\n  its last lines:\n  " + "\n  ".join(self._said) if self._said else " It said nothing."


def _drain(stream: IO[bytes], said: deque[str]) -> None:
    """Keep the last lines of what a process says."""
    with contextlib.suppress(ValueError, OSError):
        for line in stream:
            said.append(line.decode(errors="replace").rstrip())


def _end(
    process: subprocess.Popen[bytes], reader: threading.Thread, channel: Channel, life: int, file: IO[bytes]
) -> None:
    """End a process and all that it has started, and give back what it held."""
    channel.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reader.join(2)
    if process.stdout is not None and not reader.is_alive():
        process.stdout.close()
    os.close(life)
    file.close()


def describe(python: str, label: str, name: str, options: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Capabilities of a reward in another interpreter, and problems of its options; no weight is loaded.

    Returns:
        ``{"capabilities": {...}, "problems": [[loc, message], ...]}``.

    Raises:
        IsolationError: the interpreter or the reward cannot be used.
    """
    process = Process(python, label)
    try:
        return process.ask(timeout, op="describe", name=name, options=options)
    finally:
        process.end()


def names(problems: Sequence[Any]) -> list[tuple[tuple[int | str, ...], str]]:
    """Problems as pairs of a place in the options and a message."""
    return [(tuple(place), str(message)) for place, message in problems]
