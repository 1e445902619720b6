"""How the processes of a run find each other: through a store, under a name that no earlier start has used.

torch's launcher keeps one store for all restarts of its workers. torch puts nothing before their keys in it, or the
count of restarts: new workers would read the addresses of those that have died, and fail to connect or wait for ever.
The count is no name, since each machine has its own: workers that are restarted because another machine's have died do
not count.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from datetime import timedelta

from torch import distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from vader.errors import LaunchError, PeerLost
from vader.runs.launch import STORE, started

_LOOK_EVERY = 0.1
_LOST = re.compile(r"gloo|nccl|Connection (closed|reset)|Broken pipe", re.IGNORECASE)
"""What torch says when processes cannot talk."""


def join(backend: str, timeout: timedelta) -> None:
    """Join the processes that our launcher, or torch's, has started; others meet as accelerate does it.

    Args:
        backend: of the process group, ``gloo`` or ``nccl``.
        timeout: for which they wait for each other, now and later.

    Raises:
        LaunchError: some do not come.
        PeerLost: one has ended in the meantime.
    """
    path, agents = os.environ.get(STORE), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    world = started() or 1
    if distributed.is_initialized() or (path is None and not (agents and world > 1)):
        return
    rank = int(os.environ["RANK"])
    try:
        store = _own_store(path, world) if path is not None else _launchers_store(rank, world, timeout)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    except RuntimeError as error:
        if isinstance(error, LaunchError) or not lost(error):
            raise
        raise PeerLost(f"process {rank} of {world} cannot join the others: one of them has ended.") from error


def lost(error: RuntimeError) -> bool:
    """Whether an error of torch says that processes cannot talk to each other."""
    return isinstance(error, distributed.DistError) or _LOST.search(str(error)) is not None


def _own_store(path: str, world: int) -> Store:
    return distributed.FileStore(path, world)  # type: ignore[attr-defined]


def _launchers_store(rank: int, world: int, timeout: timedelta) -> Store:
    """Not torch's own ``env://``, which in older releases puts a machine's count of restarts before the keys."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(host, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    return PrefixStore(agree(PrefixStore("vader", store), rank, world, timeout), store)


def agree(store: Store, rank: int, world: int, timeout: timedelta) -> str:
    """A name that all living processes of a start agree on, whatever earlier ones have left in the store.

    Each process leaves a new word. The first answers every word with its own, the name, until all processes have taken
    it; a word that a dead process has left is answered too, but nobody takes the name for it.

    Args:
        store: that all see.
        rank: of this process.
        world: how many there are.
        timeout: for which they wait for each other.

    Raises:
        LaunchError: some do not come.
    """
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        _answer(store, word, world, deadline)
        return word
    store.set(f"word/{rank}", word)
    while not store.check([f"answer/{word}"]):
        _wait_for([0], rank, world, deadline)
    name = store.get(f"answer/{word}").decode()
    store.set(f"taken/{name}/{rank}", "")
    return name


def _answer(store: Store, name: str, world: int, deadline: float) -> None:
    """Answer words with the name, until each process has taken it."""
    answered, missing = set[str](), list(range(1, world))
    while True:
        missing = [rank for rank in missing if not store.check([f"taken/{name}/{rank}"])]
        if not missing:
            return
        for rank in missing:
            word = store.get(f"word/{rank}").decode() if store.check([f"word/{rank}"]) else name
            if word not in {name, *answered}:
                store.set(f"answer/{word}", name)
                answered.add(word)
        _wait_for(missing, 0, world, deadline)


def _wait_for(missing: list[int], rank: int, world: int, deadline: float) -> None:
    """Wait a little.

    Raises:
        LaunchError: the deadline is over.
    """
    if time.monotonic() > deadline:
        raise LaunchError(
            f"process {rank} of {world} waited for process {', '.join(map(str, missing))}, which did not come. "
            "See what the launcher of its machine says, then start the run again with --resume."
        )
    time.sleep(_LOOK_EVERY)
