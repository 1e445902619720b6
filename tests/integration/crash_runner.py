"""Kills runs. ``test_kill.py`` starts it as ``python -m tests.integration.crash_runner FOLDER SEED``.

Imports are slow, so this process imports everything once and forks a child for every start of a run. It never
back-propagates itself: autograd does not survive a fork after that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401  (what follows would be imported by every child again)
import peft  # noqa: F401
import safetensors.torch
import torch
from tests.integration.harness import ADAPTER_FILE, HERE, left_behind, tiny

import vader
import vader.report.page
import vader.runs.training
from vader.runs import checkpoint, session
from vader.runs.folder import RunFolder

KILLS, STEPS, POINT_STEPS = 20, 70, 24


def spec(folder: Path, **changes: Any) -> dict[str, Any]:
    """A checkpoint after every optimizer step, validations in between, one of their clips written as video."""
    made = tiny(
        folder,
        train={
            "steps": STEPS,
            "checkpoint_every": 1,
            "validate_every": 35,
            "gradient_accumulation": 1,
            "warmup_steps": 0,
            **changes,
        },
        validation={"clips": 2, "batch_size": 2, "save_clips": 1},
    )
    made["rewards"] = [{"name": f"{HERE}:Slow", "label": "slow"}]
    return made


def fork(function: Callable[[], object]) -> int:
    """Run a function in a child; its exit code says whether it raised."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def whole(made: dict[str, Any]) -> None:
    """A run from start to end in a child."""
    _, status = os.waitpid(fork(lambda: vader.train(made, resume=True)), 0)
    assert status == 0, "a run that nobody kills does not end well"


class Watch:
    """After every death: no checkpoint is damaged, none that was there is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.best = folder, 0

    def look(self) -> None:
        notices: list[str] = []
        found = checkpoint.newest(self.folder / "checkpoints", notices.append)
        step = found.step if found else 0
        assert notices == [], notices
        assert step >= self.best, f"the checkpoint of step {self.best} is gone, the newest is {step}"
        self.best = step


class Moment:
    """Kills this process at a drawn moment: right before the ``number``-th of the calls and returns that are counted.

    Args:
        number: of the call or return; 0 only counts.
        saves: checkpoints that are written before counting begins. From then on what fills and flushes the next one
            under its temporary name is counted; without it everything is, from now on.
    """

    def __init__(self, number: int, saves: int | None = None) -> None:
        self._number, self._left, self.seen = number, saves, 0
        if saves is None:
            sys.setprofile(self._count)
            return
        replace, sync = checkpoint.replace_folder, checkpoint.sync_tree

        def watched(final: Path, write: Callable[[Path], None], *rest: Any) -> None:
            replace(final, self._counted(write) if self._left == 0 else write, *rest)
            self._left -= 1

        checkpoint.replace_folder = watched
        checkpoint.sync_tree = lambda folder: (self._counted(sync) if self._left == 0 else sync)(folder)

    def _counted(self, function: Callable[[Path], None]) -> Callable[[Path], None]:
        def call(folder: Path) -> None:
            sys.setprofile(self._count)
            try:
                function(folder)
            finally:
                sys.setprofile(None)

        return call

    def _count(self, *event: object) -> None:
        self.seen += 1
        if self.seen == self._number:
            os.kill(os.getpid(), signal.SIGKILL)


def lengths(folder: Path) -> tuple[int, int]:
    """Calls and returns in a run of two optimizer steps, and in the writing of its second checkpoint."""

    def count(number: int, saves: int | None) -> int:
        def counted() -> None:
            moment = Moment(0, saves)
            vader.train(spec(folder / f"counted-{number}", steps=2, validate_every=None))
            sys.setprofile(None)
            (folder / "seen.txt").write_text(str(moment.seen))

        assert os.waitpid(fork(counted), 0)[1] == 0
        return int((folder / "seen.txt").read_text())

    return count(1, None), count(2, 1)


def at_random(folder: Path, seed: int) -> dict[str, Any]:
    """Kill a run twenty times at drawn calls: of all, and every second time of the writing of a checkpoint."""
    rng, watch = random.Random(seed), Watch(folder)
    everywhere, writing = lengths(folder.parent)
    inside = steps = 0
    for kill in range(KILLS):
        if kill % 2:
            chosen = (rng.randint(1, writing * 9 // 10), rng.randint(1, 3))
        else:
            chosen = (rng.randint(1, everywhere), None)

        def run(chosen: tuple[int, int | None] = chosen) -> None:
            Moment(*chosen)
            vader.train(spec(folder), resume=True)

        _, status = os.waitpid(fork(run), 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"kill {kill + 1} at {chosen} did not come"
        inside += bool(list((folder / "checkpoints").glob(".*.partial")))
        before = watch.best
        watch.look()
        steps += watch.best > before
    whole(spec(folder))
    return {"kills": KILLS, "inside": inside, "advanced": steps, "left": list(map(str, left_behind(folder)))}


# -- death at every rename, flush, removal and write


class Points:
    """Counts the calls that touch the disk and dies right before or right after the chosen one."""

    def __init__(self, number: int, after: bool) -> None:
        self.seen: list[str] = []
        self._number, self._after = number, after
        for owner, name in (
            (os, "fsync"),
            (Path, "replace"),
            (Path, "write_text"),
            (shutil, "rmtree"),
            (torch, "save"),
            (safetensors.torch, "save_file"),
        ):
            setattr(owner, name, self._wrapped(getattr(owner, name), name))

    def _wrapped(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.seen.append(name)
            chosen = len(self.seen) == self._number
            if chosen and not self._after:
                os._exit(99)
            result = function(*arguments, **named)
            if chosen:
                os._exit(99)
            return result

        return call


def count(made: dict[str, Any], log: Path) -> list[str]:
    """The calls of a run, by name."""

    def counted() -> None:
        points = Points(0, False)
        vader.train(made, resume=True)
        log.write_text(json.dumps(points.seen))

    _, status = os.waitpid(fork(counted), 0)
    assert status == 0
    seen: list[str] = json.loads(log.read_text())
    return seen


def die_everywhere(made: dict[str, Any], calls: int) -> int:
    """Start a run again and again; each time it dies at the next call, before and then after it."""

    def start(number: int, after: bool) -> None:
        Points(number, after)
        vader.train(made, resume=True)

    deaths, watch = 0, Watch(Path(made["output"]))
    for number in range(1, calls + 1):
        for after in (False, True):
            _, status = os.waitpid(fork(lambda number=number, after=after: start(number, after)), 0)  # type: ignore[misc]
            assert os.waitstatus_to_exitcode(status) in (0, 99), f"call {number} raised"
            deaths += os.waitstatus_to_exitcode(status) == 99
            watch.look()
            if watch.best:  # what generation takes is whole at any moment
                taken = session.newest_adapter(RunFolder(watch.folder))
                safetensors.torch.load_file(taken / ADAPTER_FILE)
                json.loads((taken / "adapter_config.json").read_text())
    return deaths


def at_every_point(folder: Path) -> dict[str, Any]:
    """Deaths while a run opens its folder and writes its first checkpoints; then while a finished run ends again."""
    seen = count(spec(folder / "counted", steps=2, validate_every=None), folder / "calls.json")
    run = spec(folder / "points", steps=POINT_STEPS, validate_every=None)
    begun = die_everywhere(run, len(seen) - seen[::-1].index("rmtree") - 1)  # to the first checkpoint's last call
    whole(run)
    end = count(run, folder / "calls.json")
    ended = die_everywhere(run, len(end))
    whole(run)
    left = list(map(str, left_behind(folder / "points")))
    return {"begun": begun, "ended": ended, "calls": seen, "end": end, "left": left}


def main() -> None:
    """Everything, with a report as JSON."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    whole(spec(folder / "unbroken"))
    report: dict[str, Any] = {"random": at_random(folder / "killed", seed)}
    whole(spec(folder / "whole", steps=POINT_STEPS, validate_every=None))
    report["points"] = at_every_point(folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
