"""Starts of runs as forked children, and what may happen to them at a moment that is drawn by its number.

Imports are slow, so the process that forks imports everything once. It never back-propagates itself: autograd does not
survive a fork after that.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import diffusers  # noqa: F401  (what follows would be imported by every child again)
import imageio  # noqa: F401
import peft  # noqa: F401
import torch
from tests.integration.harness import tiny

import vader
import vader.cli.app
import vader.report.page
import vader.runs.training

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
REFUSED, BROKEN = 3, 4
"""Exit codes of a child: one error of ours; anything else that was raised."""


def spec(folder: Path, steps: int, **train: Any) -> dict[str, Any]:
    """A tiny run that checkpoints and validates, with a moving average and one clip of each validation as video."""
    return tiny(
        folder,
        train={
            "steps": steps,
            "checkpoint_every": 2,
            "validate_every": 4,
            "keep_checkpoints": 3,
            "gradient_accumulation": 1,
            "warmup_steps": 0,
            "ema_decay": 0.9,
            **train,
        },
        validation={"clips": 2, "batch_size": 2, "save_clips": 1},
    )


def fork(function: Callable[[], object], said: Path) -> int:
    """Run a function in a child; its process id. What it was refused for is written to ``said``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = BROKEN
    try:
        function()
        code = 0
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except vader.VaderError as error:
        sys.setprofile(None)
        code = REFUSED
        there_is_room()
        said.write_text(f"{type(error).__name__}: {error}")
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code; minus the signal's number for a child that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- moments

_CALLS = {os.fsync, os.ftruncate, os.mkdir, os.rename, os.replace, os.rmdir, os.unlink, os.write}
_METHODS = {"write", "flush", "truncate", "write_record", "write_end_of_file"}
_FILES = (io.BufferedWriter, io.FileIO, torch._C.PyTorchFileWriter)


def changes_disk(function: Any) -> bool:
    """Whether a built-in function or method changes what is on disk."""
    if function in _CALLS:
        return True
    if function.__name__ not in _METHODS or not isinstance(function.__self__, _FILES):
        return False
    return not isinstance(function.__self__, io.IOBase) or function.__self__.fileno() > 2


class Moment:
    """Does something right before the ``number``-th of the calls and returns of this thread, from now on.

    Args:
        number: counted from 1; 0 only counts.
        action: what is done.
        disk: only calls that change what is on disk are counted.
    """

    def __init__(self, number: int, action: Callable[[], object] = int, *, disk: bool = False) -> None:
        self._number, self._action, self.seen = number, action, 0
        sys.setprofile(self._on_disk if disk else self._any)

    def _any(self, frame: FrameType, event: str, argument: Any) -> None:
        self.seen += 1
        if self.seen == self._number:
            self._action()

    def _on_disk(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and changes_disk(argument):
            self._any(frame, event, argument)


def killing(number: signal.Signals) -> Callable[[], None]:
    """Sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def no_room(size: int | None) -> None:
    """The disk is full: no file grows beyond ``size`` bytes any more, and without it the call at hand fails too.

    Raises:
        OSError: the call at hand fails.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size or 0, resource.RLIM_INFINITY))
    if size is None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def there_is_room() -> None:
    """Somebody made room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
