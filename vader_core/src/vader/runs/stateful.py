"""What a checkpoint keeps: each thing is registered once, with how it is saved and how it is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Place = Literal["folder", "training", "process", "manifest"]
"""Where a thing lies in a checkpoint, always under its name:

``folder``: a folder; saving gives a function that fills it, restoring gets its path.
``training``: an entry of ``optimizer.pt``: tensors, numbers, strings, and lists and dicts of them.
``process``: a file of JSON for every process.
``manifest``: an entry of ``manifest.json``.
"""


@dataclass(frozen=True)
class Stateful:
    """One thing that a checkpoint keeps."""

    name: str
    place: Place
    save: Callable[[], Any]
    restore: Callable[[Any], object]
    by_process: bool
    """Whether every process has its own; else the main process's is everyone's."""


class Registry:
    """Everything that a checkpoint keeps, in the order in which it is restored."""

    def __init__(self) -> None:
        self._kept: dict[str, Stateful] = {}

    def register(
        self,
        name: str,
        place: Place,
        save: Callable[[], Any],
        restore: Callable[[Any], object],
        *,
        by_process: bool = False,
    ) -> None:
        """Have a thing saved and restored.

        Args:
            name: no other thing's.
            place: where in a checkpoint it lies.
            save: gives its present state.
            restore: takes up what ``save`` gave.
            by_process: every process has its own; always so in ``process``.
        """
        assert name not in self._kept, f"{name} is registered twice"
        self._kept[name] = Stateful(name, place, save, restore, by_process or place == "process")

    def __iter__(self) -> Iterator[Stateful]:
        return iter(self._kept.values())

    def collect(self, gather: Callable[[list[Any]], list[Any]], *, main: bool) -> dict[str, Any]:
        """The present state of everything, by name. Every process calls it, together.

        Args:
            gather: collects the values of all processes, by rank.
            main: whether this is the main process; the others get what is each process's own, and nothing else.
        """
        own = {one.name: gather([one.save()]) for one in self if one.by_process}
        return {one.name: own[one.name] if one.by_process else one.save() for one in self if one.by_process or main}
