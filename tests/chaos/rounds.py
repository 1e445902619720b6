"""Rounds of mishaps: a round is a run of its own to which something happens, then it is resumed until it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.chaos.deaths import Watch
from tests.chaos.forks import REFUSED, SIGNALS, Moment, ended, fork, killing, no_room, spec
from tests.chaos.launching import launched, names_of
from tests.integration.harness import At, crash, flip, left_behind, records

import vader
from vader.runs.folder import RunFolder

STEPS, STARTS = 8, 6
KINDS = ("kill", "full", "bit", "two", "kill", "launcher", "full", "bit", "two", "kill")
MINE = (
    ".x.partial.docx",
    "adapter/README.md",
    "checkpoints/step-000002/why.txt",
    "samples/step-final.mp4",
    "notes.txt",
)
"""What the user keeps in the run's folder; some of it in folders that are not there yet."""


def wait_for(path: Path) -> None:
    """Until a file is there.

    Raises:
        TimeoutError: it does not come.
    """
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.005)


class Round:
    """One run and what happens to it.

    Args:
        folder: of the round; the run is in it.
        number: of the round.
        rng: decides the rest.
        calls: all calls and returns of a run, and those that change the disk.
    """

    def __init__(self, folder: Path, number: int, rng: random.Random, calls: tuple[int, int]) -> None:
        folder.mkdir()
        self.folder, self.run, self.said = folder, folder / "run", folder / "said.txt"
        self._kind, self._rng, self._calls = KINDS[number % len(KINDS)], rng, calls
        self._signal = rng.choice(SIGNALS)
        self._made = spec(self.run, STEPS)
        (folder / "run.yaml").write_text(yaml.safe_dump(self._made))
        (folder / "beside.txt").write_text("mine")

    def play(self) -> dict[str, Any]:
        """What came of it."""
        note = getattr(self, f"_{self._kind}")()
        mine = self._plant()
        code = 1
        for _ in range(STARTS):
            code = self._launch() if self._kind == "launcher" else ended(self._start())
            if code != -signal.SIGKILL:
                break
        there = {name: (self.run / name).read_text() for name in mine if (self.run / name).is_file()}
        beside = {path.name for path in self.folder.iterdir()} - {"run", "run.yaml", "said.txt", "here", "go"}
        return {
            "kind": self._kind,
            "note": note,
            "code": code,
            "refusal": self.said.read_text() if code == REFUSED else "",
            "lost": [name for name, text in mine.items() if there.get(name) != text],
            "beside": sorted(beside),
            "left": list(map(str, left_behind(self.run))),
            "run": str(self.run),
            "steps": [line["step"] for line in records(self.run)] if code == 0 else [],
        }

    def _start(self, prepare: Callable[[], object] = int, **rest: Any) -> int:
        def run() -> None:
            prepare()
            vader.train(self._made, resume=True, **rest)

        return fork(run, self.said)

    def _launch(self, prepare: Callable[[str], object] = str) -> int:
        return launched(self.folder / "run.yaml", self.said, prepare)

    def _plant(self) -> dict[str, str]:
        """Put files of the user's where their folders are."""
        if not RunFolder(self.run).described:
            return {}
        mine = {name: f"mine: {name}" for name in MINE if (self.run / name).parent.is_dir()}
        for name, text in mine.items():
            (self.run / name).write_text(text)
        return mine

    def _death(self) -> Callable[[], object]:
        number = self._rng.randint(1, self._calls[0])
        return lambda: Moment(number, killing(self._signal))

    def _kill(self) -> str:
        """One to three times, each at a drawn call."""
        codes, watch = [], Watch(self.run)
        for _ in range(self._rng.randint(1, 3)):
            codes.append(ended(self._start(self._death())))
            watch.look()
        assert not {REFUSED} & set(codes), f"{self._signal.name} gave {codes}: {self.said.read_text()}"
        return f"{self._signal.name}: {codes}"

    def _full(self) -> str:
        """From a drawn call that changes the disk on."""
        number = self._rng.randint(1, self._calls[1])
        size = int(10 ** self._rng.uniform(1.5, 4.3)) if self._rng.random() < 0.4 else None
        code = ended(self._start(lambda: Moment(number, lambda: no_room(size), disk=True)))
        assert code in (0, REFUSED), f"a full disk gave code {code}"
        return f"{size} bytes from call {number} on: {code} {self.said.read_text() if code == REFUSED else ''}"

    def _bit(self) -> str:
        step = self._rng.randint(3, STEPS + 1)  # the last has ended
        ended(self._start(listeners=[At(step, crash)]))
        files = sorted(path for path in self.run.rglob("*") if path.is_file() and path.stat().st_size)
        chosen = self._rng.choice(files)
        flip(chosen, self._rng.random())
        return str(chosen.relative_to(self.run))

    def _two(self) -> str:
        """At the same moment, or one while the other is at a drawn step; one may be killed."""
        if self._rng.random() < 0.5:
            pids = [self._start(self._death()), self._start()]
            codes = [ended(pid) for pid in pids]
            assert codes != [0, 0] or self._signal != signal.SIGKILL, "the drawn call was not reached"
            return f"together, {self._signal.name}: {codes}"
        here, go = self.folder / "here", self.folder / "go"

        def wait() -> None:
            here.touch()
            wait_for(go)

        first = self._start(listeners=[At(self._rng.randint(1, STEPS), wait)])
        wait_for(here)
        second = ended(self._start())
        if self._rng.random() < 0.5:
            os.kill(first, self._signal)
        go.touch()
        codes = [ended(first), second]
        assert second == REFUSED, f"both ran: {codes}"
        return f"one after the other, {self._signal.name}: {codes}"

    def _launcher(self) -> str:
        """Of two processes and their launcher one is killed, at a drawn call of a process."""
        victim, number = self._rng.choice(names_of(2)), self._rng.randint(1, self._calls[0])
        witness = "0" if victim == "launcher" else victim

        def prepare(rank: str) -> None:
            if rank == witness:
                process = os.getppid() if victim == "launcher" else os.getpid()
                Moment(number, lambda: os.kill(process, self._signal))

        code = self._launch(prepare)
        return f"{self._signal.name} to {victim} at call {number}: {code}"


def whole(folder: Path, said: Path) -> tuple[int, int]:
    """A run that nothing happens to; its calls and returns, and those that change the disk."""
    seen = []
    for disk in (False, True):
        made, file = spec(folder.with_name(f"{folder.name}-{disk}") if disk else folder, STEPS), said.with_name("seen")

        def run(disk: bool = disk, made: dict[str, Any] = made, file: Path = file) -> None:
            moment = Moment(0, disk=disk)
            vader.train(made, resume=True)
            file.write_text(json.dumps(moment.seen))

        assert ended(fork(run, said)) == 0
        seen.append(json.loads(file.read_text()))
    return seen[0], seen[1]


def play(folder: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """All rounds."""
    calls = whole(folder / "whole", folder / "said.txt")
    made = spec(folder / "whole-of-two", STEPS)
    (folder / "two.yaml").write_text(yaml.safe_dump(made))
    assert launched(folder / "two.yaml", folder / "said.txt") == 0
    return [
        Round(folder / f"round-{number:03d}", number, random.Random(f"{seed}/{number}"), calls).play()
        for number in range(rounds)
    ]
