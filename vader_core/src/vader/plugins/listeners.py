"""What is wrong with a listener of run events, found without a run."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

EVENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vader_run_started": ("run",),
        "vader_encoding_progress": ("run", "done", "total"),
        "vader_step_finished": ("run", "step", "metrics"),
        "vader_validation_progress": ("run", "step", "done", "total"),
        "vader_validation_finished": ("run", "validation"),
        "vader_checkpoint_saved": ("run", "step", "path"),
        "vader_notice": ("run", "text"),
        "vader_run_finished": ("run", "result"),
    }
)
"""Event -> what its listeners may take; the names of :class:`vader.runs.events.Events`."""
_MARK = "vader_impl"
"""What ``vader.hookimpl`` leaves on a function."""


def listener_fault(listener: Any) -> str | None:
    """Why an object cannot listen, in one sentence; None when it can. A class is constructed.

    Raises:
        BaseException: whatever its constructor or its attributes raise.
    """
    target = listener() if isinstance(listener, type) else listener
    marked = dict(_marked(target))
    if not marked:
        near = [name for name in EVENTS if callable(getattr(target, name, None))]
        what = f"{near[0]} is not marked" if near else "no function of it is marked"
        return f"{what} with vader.hookimpl, so it hears nothing."
    for name, function in marked.items():
        options = getattr(function, _MARK)
        if name not in EVENTS:
            if isinstance(options, Mapping) and options.get("optionalhook"):
                continue
            close = difflib.get_close_matches(name, EVENTS, n=1)
            hint = f" Did its author mean {close[0]}?" if close else ""
            return f"it listens to {name}, which is no event of vader.{hint} Events: {', '.join(EVENTS)}."
        known = EVENTS[name]
        taken = [one.name for one in inspect.signature(function).parameters.values() if one.default is one.empty]
        strange = [one for one in taken if one not in known]
        if strange:
            return f"its {name} takes {', '.join(strange)}; the event has {', '.join(known)}."
    return None


def _marked(target: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(target):
        function = getattr(target, name, None)
        if inspect.isroutine(function) and hasattr(function, _MARK):
            yield name, function
