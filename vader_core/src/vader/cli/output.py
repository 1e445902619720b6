"""What the command line prints, and to whom: printing never ends a run, and a user's text is never markup."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console


class Unfailing:
    """A stream that takes whatever it is given: what the system refuses is lost, and the first refusal is kept.

    Args:
        stream: what is written to; None where there is none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.refusal: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write, or lose it."""
        if self._stream is not None and self.refusal is None:
            with self._noting():
                self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """See :meth:`write`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or lose it."""
        if self._stream is not None and self.refusal is None:
            with self._noting():
                self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        if self._stream is not None and self.refusal is None:
            with self._noting():
                return self._stream.isatty()
        return False

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except UnicodeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self.refusal = error
            self._silence()

    def _silence(self) -> None:
        """What is buffered goes nowhere, else the interpreter fails on it at its end."""
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self._stream).fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unfailing() -> Iterator[tuple[Unfailing, Unfailing]]:
    """stdout and stderr are :class:`Unfailing` for as long as the context lasts."""
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr
    streams = Unfailing(sys.stdout), Unfailing(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, streams[0]), cast(TextIO, streams[1])
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_standard_descriptors() -> None:
    """A closed stdout would lend its number to the next file that is opened, and libraries would print into that."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)


def lost(stream: Unfailing) -> str | None:
    """Why what was printed did not arrive; None if it did, or if its reader had enough, as ``head`` has."""
    refusal = stream.refusal
    if refusal is None or (isinstance(refusal, OSError) and refusal.errno in (errno.EPIPE, errno.EIO)):
        return None
    return str(getattr(refusal, "strerror", None) or refusal)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no emoji, no colours. Only the main process prints."""
    from rich.console import Console

    quiet = os.environ.get("RANK", "0") != "0"
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, quiet=quiet)


def printable(text: str) -> str:
    """A user's text on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def hide_loading_bars() -> None:
    """transformers draws a bar for every file it loads, through ours; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
