"""A run dies before every call that changes what is on disk, from opening its folder to its end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from tests.chaos.forks import Moment, ended, fork, spec
from tests.integration.harness import ADAPTER_FILE, At, left_behind

import vader
from vader.runs import checkpoint, session
from vader.runs.folder import RunFolder

STEPS, DEATH = 24, 99


class Watch:
    """After every death: no checkpoint is damaged, none that was there is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, 0

    def look(self) -> None:
        """Assert it."""
        notices: list[str] = []
        found = checkpoint.newest(self.folder / "checkpoints", notices.append)
        step = found.step if found else 0
        assert notices == [], notices
        assert step >= self.best, f"the checkpoint of step {self.best} is gone, the newest is {step}"
        self.best = step
        if self.best:  # what generation takes is whole at any moment
            taken = session.newest_adapter(RunFolder(self.folder))
            safetensors.torch.load_file(taken / ADAPTER_FILE)
            json.loads((taken / "adapter_config.json").read_text())


class Deaths:
    """Deaths of one run.

    Args:
        folder: of this and that.
        every: which of the calls are died at: every one, every second...
    """

    def __init__(self, folder: Path, every: int = 1) -> None:
        self._run, self._said, self._every = folder / "dying", folder / "said.txt", every
        self._watch = Watch(self._run)

    def play(self) -> dict[str, Any]:
        """Deaths while a run opens its folder and writes its first checkpoint; then while a finished run ends again."""
        alone = self._run.with_name("undying")
        opening = self._calls(2, alone)
        begun = self._die(opening)
        ending = self._calls(0, alone)
        self._finish()
        again = self._die(ending)
        self._finish()
        left = list(map(str, left_behind(self._run)))
        return {"opening": opening, "begun": begun, "ending": ending, "ended": again, "left": left}

    def _start(self, folder: Path, prepare: Callable[[], object], **rest: Any) -> int:
        made = spec(folder, STEPS, checkpoint_every=1, validate_every=None)

        def run() -> None:
            prepare()
            vader.train(made, resume=True, **rest)

        return ended(fork(run, self._said))

    def _finish(self) -> None:
        assert self._start(self._run, int) == 0, "a run that nobody kills does not end well"

    def _calls(self, step: int, folder: Path) -> int:
        """Calls that change the disk until ``step`` optimizer steps are done; 0: in the end of a finished run."""
        seen = self._said.with_name("seen.txt")
        made = spec(folder, STEPS, checkpoint_every=1, validate_every=None)
        if not step:
            assert self._start(folder, int) == 0

        def run() -> None:
            moment = Moment(0, disk=True)

            def stop() -> None:
                seen.write_text(str(moment.seen))
                os._exit(0)

            vader.train(made, resume=True, listeners=[At(step, stop)])
            stop()

        assert ended(fork(run, self._said)) == 0
        return int(seen.read_text())

    def _die(self, calls: int) -> int:
        """Start the run again and again; each time it dies before the next call."""
        deaths = 0
        for number in range(1, calls + 1, self._every):
            code = self._start(self._run, lambda number=number: Moment(number, lambda: os._exit(DEATH), disk=True))
            assert code in (0, DEATH), f"call {number} raised"
            deaths += code == DEATH
            self._watch.look()
        return deaths
