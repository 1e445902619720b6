"""How processes that a launcher restarts find each other, whatever earlier ones have left in its store."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch import distributed

from vader.errors import LaunchError, PeerLost
from vader.runs.launch import STORE
from vader.runs.meeting import agree, join

SOON = timedelta(seconds=30)


def meet(store: Any, world: int, late: Sequence[int] = ()) -> list[str]:
    """The names that the processes of one start get; those that are late come when the others wait."""

    def one(rank: int) -> str:
        time.sleep(0.3 if rank in late else 0)
        return agree(store, rank, world, SOON)

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(one, range(world)))


@pytest.mark.parametrize("late", [(), (0,), (1, 2), (0, 2)])
def test_all_agree_on_a_name_that_no_earlier_start_had(late: Sequence[int]) -> None:
    store, names = distributed.HashStore(), set[str]()
    for world in (3, 3, 2, 4):
        agreed = meet(store, world, [rank for rank in late if rank < world])
        assert len(set(agreed)) == 1
        assert agreed[0] not in names
        names |= set(agreed)


def test_one_that_died_while_it_waited_is_not_taken_for_the_new_one() -> None:
    store = distributed.HashStore()
    with pytest.raises(LaunchError, match="process 1 of 2 waited for process 0, which did not come"):
        agree(store, 1, 2, timedelta(0))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(agree, store, 0, 2, SOON)
        time.sleep(0.3)
        assert not first.done()
        assert agree(store, 1, 2, SOON) == first.result()


def test_the_first_names_those_that_do_not_come() -> None:
    store = distributed.HashStore()
    second = threading.Thread(target=agree, args=(store, 2, 4, SOON))
    second.start()
    with pytest.raises(LaunchError, match="process 0 of 4 waited for process 1, 3, which did not come"):
        agree(store, 0, 4, timedelta(seconds=0.5))
    second.join()


def test_a_store_that_is_gone_is_a_peer_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE, raising=False)
    given = {"TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": "1", "WORLD_SIZE": "2"}
    for name, value in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PeerLost, match="process 1 of 2 cannot join the others"):
        join("gloo", timedelta(seconds=1))
