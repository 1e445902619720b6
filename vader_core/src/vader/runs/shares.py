"""Clips that all processes make together: each makes whole batches, and the main process gets every result, in order.

A batch is the same whatever the number of processes, so its clips are too, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Crew(Protocol):
    """The processes that share work; :class:`vader.runs.engine.Engine` is one."""

    @property
    def num_processes(self) -> int:
        """How many there are."""
        ...

    @property
    def process_index(self) -> int:
        """Which of them this one is, from 0."""
        ...

    @property
    def in_step(self) -> bool:
        """Whether all must call the same networks as often, because they share out their weights."""
        ...

    def to_main(self, values: list[Value]) -> list[Value]:
        """The values of all processes, by rank, in the main process; none in the others. All call it, together."""
        ...


class Alone:
    """A crew of one."""

    num_processes, process_index, in_step = 1, 0, False

    def to_main(self, values: list[Value]) -> list[Value]:
        """See :class:`Crew`."""
        return values


def in_shares(crew: Crew, count: int, batch_size: int, make: Callable[[range], list[Value]]) -> Iterator[Value]:
    """What ``make`` gives for 0 to ``count - 1``, in order, in the main process; nothing in the others.

    Args:
        crew: the processes; all of them come here, together, and use up what they get.
        count: of the clips.
        batch_size: clips made at once.
        make: gives a value for each index of a batch. Values travel between processes.
    """
    for first in range(0, count, batch_size * crew.num_processes):
        start = first + batch_size * crew.process_index
        rows = range(start, min(start + batch_size, count))
        if not rows and crew.in_step:
            make(range(first, min(first + batch_size, count)))
        yield from crew.to_main(make(rows) if rows else [])
