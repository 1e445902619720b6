"""The mark and the lock of a run folder, one file: a folder that has it is a run's, and one run at a time holds it.

The lock is ``flock``: the system releases it when the process dies, however it dies. On NFS the kernel maps it to the
server's byte-range locks, which hold between machines unless the volume is mounted with ``nolock``; where a file system
has no locks at all, the run says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from vader.errors import RunFolderError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

MARK = ".vader-run"
_BEGUN, _SAVED = b"vader run 1\n", b"a checkpoint was written\n"


class RunLock:
    """Held by a run for as long as it lasts.

    Args:
        folder: of the run.
        notice: told where the file system has no locks.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self._path, self._notice = folder / MARK, notice
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is."""
        return self._descriptor is not None

    def take(self, *, create: bool) -> None:
        """Hold the lock, if its file is there or may be made.

        Raises:
            RunFolderError: another run holds it, or the file cannot be opened.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0), 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not create:
                return
            raise RunFolderError(f"output: cannot open {str(self._path)!r}: {error.strerror}.") from error
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunFolderError(
                    f"output: another run is writing to {str(self._path.parent)!r}. "
                    "Wait for it to end, stop it, or choose another folder."
                ) from error
            self._notice(
                f"the file system of {str(self._path.parent)!r} has no locks ({error.strerror}): "
                "nothing but you keeps a second run out of it."
            )

    def begin(self) -> None:
        """Mark the folder: what it holds from now on is the run's, and no checkpoint has been written yet."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        self._write(_BEGUN)

    def note_checkpoint(self) -> None:
        """Note, once, that there is a checkpoint, so that a run whose checkpoints are gone does not begin again."""
        if self._descriptor is not None and not self.has_saved:
            self._write(_SAVED)

    @property
    def has_saved(self) -> bool:
        """Whether a checkpoint was written; a mark that has been altered says nothing, and counts as yes."""
        if self._descriptor is None:
            return True
        return os.pread(self._descriptor, 4096, 0) not in (b"", _BEGUN)

    def _write(self, text: bytes) -> None:
        assert self._descriptor is not None
        try:
            os.write(self._descriptor, text)
            os.fsync(self._descriptor)
        except OSError as error:
            message = f"cannot write {str(self._path)!r}: {error.strerror}. Make room, then start the run again."
            raise RunFolderError(message) from error

    def release(self) -> None:
        """Let it go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
