"""Every error a user can meet.

::

    VaderError
    ├── SpecError              the run spec is wrong; carries one Problem per mistake
    ├── RegistryError          a component cannot be found or loaded
    │   ├── UnknownComponent   nothing installed has that name
    │   ├── AmbiguousComponent two distributions claim one name
    │   └── BrokenComponent    the component's plugin fails to load
    ├── WeightsError           a weight file is missing, truncated, of the wrong kind or of another model
    ├── CheckpointError        a checkpoint cannot be written, read or resumed
    ├── RunFolderError         the output folder cannot hold the run
    ├── LaunchError            the processes started are not the processes asked for
    │   └── PeerLost           another process of the run has ended
    ├── ComponentError         a component, a listener or a tracker raised, or gave what it must not
    ├── IsolationError         a reward in another process ended, hung or raised
    ├── HubError               the hub refuses, or cannot be reached
    ├── PathError              a path that no file can have
    └── NonFiniteError         loss or gradient stayed NaN or infinite

A ``VaderError`` is a user's mistake or a user's machine; the command line prints its message without a stack trace.
Broken promises of our own code are ``assert`` statements.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 160, 160, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 12


def cut(value: Any, *, plain: bool = False) -> str:
    """A value as a message shows it: its ``repr``, shortened where it is long.

    Args:
        value: anything; one that cannot be shown is named by its type.
        plain: a text, without quotes.
    """
    if plain and isinstance(value, str):
        return value if len(value) <= 160 else f"{value[:110]} ... {value[-40:]}"
    try:
        return _SHORT.repr(value)
    except Exception:  # a repr of a stranger's, or a number too long to be written
        return f"a {type(value).__name__}"


class VaderError(Exception):
    """Base of every error that vader raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec.

    Args:
        path: dotted path of the field, for example ``rewards.0.options.level``.
        message: what is wrong, what was expected and the fix.
        line: line in the YAML file, counted from 1; None when the spec did not come from YAML.
    """

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line is not None else ""
        return f"{self.path or 'spec'}{where}: {self.message}"


class SpecError(VaderError, ValueError):
    """The run spec is wrong. ``problems`` holds every mistake found, not only the first."""

    def __init__(self, problems: Sequence[Problem], source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        head = f"{count} in {source or 'the run spec'}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class RegistryError(VaderError, LookupError):
    """A component cannot be found or loaded."""


class UnknownComponent(RegistryError):
    """Nothing installed has that name."""


class AmbiguousComponent(RegistryError):
    """Two distributions claim one name; both are refused."""


class BrokenComponent(RegistryError):
    """The plugin that offers the component fails to load.

    Args:
        cause: what happened.
        fix: what to do about it.
    """

    def __init__(self, cause: str, fix: str = "") -> None:
        self.cause, self.fix = cause, fix
        super().__init__(f"{cause} {fix}".rstrip())


class WeightsError(VaderError):
    """A weight file is missing, truncated, of the wrong kind or of another model."""


class CheckpointError(VaderError):
    """A checkpoint cannot be written, read or resumed."""


class RunFolderError(VaderError, OSError):
    """The output folder cannot hold the run."""


class HubError(VaderError, OSError):
    """The hub refuses, or cannot be reached."""


class LaunchError(VaderError, RuntimeError):
    """The processes started are not the processes asked for."""


class PeerLost(LaunchError):
    """Another process of the run has ended, so this one cannot go on."""


class ComponentError(VaderError, RuntimeError):
    """A component, a listener or a tracker raised, or gave what it must not. Its error, the cause, says where."""


NO_MEMORY = "Memory ran out: `vader estimate SPEC` says what a run needs, and which change of the spec saves most."
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


class _Blame(AbstractContextManager[None]):
    """See :func:`blame`. No generator, for which a ``StopIteration`` would mean something else."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, VaderError | KeyboardInterrupt | GeneratorExit):
            said = f"{self._what} raised {type(error).__name__}: {error}"
            raise ComponentError(f"{said.rstrip('.')}. {NO_MEMORY}" if out_of_memory(error) else said) from error


def blame(what: str) -> AbstractContextManager[None]:
    """Whatever is raised in the block is an error that names what raised it; ``SystemExit`` too.

    Args:
        what: the component and its name.

    Raises:
        ComponentError: unless it is an error of vader's, or Ctrl-C.
    """
    return _Blame(what)


class IsolationError(VaderError, RuntimeError):
    """A reward in another process ended, hung or raised."""


class PathError(VaderError, ValueError):
    """A path that no file can have: an unknown user's home, a null character, a name that is too long."""


class NonFiniteError(VaderError, ArithmeticError):
    """Loss or gradient stayed NaN or infinite for too many optimizer steps in a row."""
