"""An isolated reward as a component that a spec is judged by: no torch here, nothing is started but to ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vader.errors import IsolationError
from vader.plugins.isolation.process import describe, names

Place = tuple[int | str, ...]


class Isolated:
    """A reward in another interpreter, known by what it says of itself there.

    Args:
        isolate: ``python``, ``timeout`` and ``startup_timeout`` of the spec.
        name: a name registered there, or ``./file.py:Name``.
        label: what it is called in messages.
        options: the reward's options, judged there.

    Raises:
        IsolationError: the interpreter or the reward cannot be used.
    """

    def __init__(self, isolate: Mapping[str, Any], name: str, label: str, options: Mapping[str, Any]) -> None:
        self._launch = {**isolate, "name": name, "label": label, "options": dict(options)}
        found = describe(isolate["python"], label, name, dict(options), isolate["startup_timeout"])
        self.capabilities: dict[str, Any] = found["capabilities"]
        self.problems: list[tuple[Place, str]] = names(found["problems"])

    def component(self) -> type:
        """A class that can be constructed in its place, with its capabilities as class attributes."""
        launch, capabilities = self._launch, self.capabilities

        def construct(cls: type, runtime: Any, video: Any = None) -> Any:
            from vader.plugins.isolation.client import IsolatedReward

            kind = type("IsolatedReward", (IsolatedReward,), {**capabilities, "launch": launch})
            return kind(runtime, video)

        return type("IsolatedReward", (), {**capabilities, "__new__": construct})


__all__ = ["Isolated", "IsolationError"]
