"""Rounds of mishaps. ``test_chaos.py`` starts it as ``python -m tests.chaos.rounds FOLDER SEED ROUNDS``.

A round is a run of its own to which one thing happens, then it is resumed until it ends: a kill by any signal, a disk
that is full at some write, a flipped bit in some file, or two starts at once. Imports are slow, so this process imports
everything once and forks a child for every start.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers  # noqa: F401  (what follows would be imported by every child again)
import peft  # noqa: F401
import torch
from tests.integration.harness import HERE, At, crash, flip, left_behind, records, tiny

import vader
import vader.report.page
import vader.runs.training
from vader.runs.folder import RunFolder

STEPS, STARTS = 12, 6
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
REFUSED, BROKEN = 3, 4
MINE = (
    ".x.partial.docx",
    "adapter/README.md",
    "checkpoints/step-000002/why.txt",
    "samples/step-final.mp4",
    "notes.txt",
)
"""What the user keeps in the run's folder; some of it in folders that are not there yet."""


def spec(folder: Path) -> dict[str, Any]:
    made = tiny(
        folder,
        train={
            "steps": STEPS,
            "checkpoint_every": 2,
            "keep_checkpoints": 3,
            "validate_every": 4,
            "gradient_accumulation": 1,
            "warmup_steps": 0,
            "ema_decay": 0.9,
        },
        validation={"clips": 2, "batch_size": 2, "save_clips": 1},
    )
    made["rewards"] = [{"name": f"{HERE}:Slow", "label": "slow", "options": {"seconds": 0.02}}]
    return made


def start(made: dict[str, Any], said: Path, prepare: Callable[[], object] = int, **rest: Any) -> int:
    """Fork a child that trains; the process id. What it was refused for is written to ``said``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = BROKEN
    try:
        prepare()
        vader.train(made, resume=True, **rest)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except vader.VaderError as error:
        code = REFUSED
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said.write_text(f"{type(error).__name__}: {error}")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """The exit code; minus the signal's number for a child that was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Round:
    """One run and what happens to it.

    Args:
        folder: of the round; the run is in it.
        number: of the round.
        rng: decides the rest.
        seconds: that a whole run takes.
    """

    def __init__(self, folder: Path, number: int, rng: random.Random, seconds: float) -> None:
        folder.mkdir()
        self._signal = SIGNALS[number // 4 % len(SIGNALS)]
        self.run, self.said, self._rng, self._seconds = folder / "run", folder / "said.txt", rng, seconds
        self._made = spec(self.run)

    def play(self, kind: str) -> dict[str, Any]:
        """What came of it."""
        note = getattr(self, f"_{kind}")()
        mine = self._plant()
        code = 1
        for _ in range(STARTS):
            code = ended(start(self._made, self.said))
            if code in (0, REFUSED, BROKEN):
                break
        refusal = self.said.read_text() if code == REFUSED else ""
        there = {name: (self.run / name).read_text() for name in mine if (self.run / name).is_file()}
        return {
            "kind": kind,
            "note": note,
            "code": code,
            "refusal": refusal,
            "lost": [name for name, text in mine.items() if there.get(name) != text],
            "left": list(map(str, left_behind(self.run))),
            "run": str(self.run),
        }

    def _plant(self) -> dict[str, str]:
        """Put files of the user's where their folders are."""
        if not RunFolder(self.run).described:
            return {}
        mine = {name: f"mine: {name}" for name in MINE if (self.run / name).parent.is_dir()}
        for name, text in mine.items():
            (self.run / name).write_text(text)
        return mine

    def _kill(self) -> str:
        pid = start(self._made, self.said)
        time.sleep(self._rng.uniform(0.05, self._seconds))
        os.kill(pid, self._signal)
        return f"{self._signal.name}: {ended(pid)}"

    def _full(self) -> str:
        """No file may grow beyond some size from some step on."""
        size, step = int(10 ** self._rng.uniform(1.5, 4.3)), self._rng.randint(1, STEPS - 1)

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        code = ended(start(self._made, self.said, listeners=[At(step, fill)]))
        assert code in (0, REFUSED), f"a full disk gave code {code}"
        return f"{size} bytes after step {step}: {code} {self.said.read_text() if code == REFUSED else ''}"

    def _bit(self) -> str:
        step = self._rng.randint(3, STEPS - 1)
        ended(start(self._made, self.said, listeners=[At(step, crash)]))
        files = sorted(path for path in self.run.rglob("*") if path.is_file() and path.stat().st_size)
        chosen = self._rng.choice(files)
        flip(chosen, self._rng.random())
        return str(chosen.relative_to(self.run))

    def _two(self) -> str:
        pids = [start(self._made, self.said) for _ in (1, 2)]
        if self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0.05, self._seconds))
            os.kill(pids[0], signal.SIGKILL)
        codes = sorted(map(ended, pids))
        assert REFUSED in codes or -signal.SIGKILL in codes, f"both ran: {codes}"
        return str(codes)


def main() -> None:
    """All rounds, with a report as JSON."""
    folder, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    begun = time.monotonic()
    assert ended(start(spec(folder / "whole"), folder / "said.txt")) == 0
    seconds = time.monotonic() - begun
    kinds = ("kill", "full", "bit", "two")
    report = []
    for number in range(rounds):
        rng = random.Random(f"{seed}/{number}")
        done = Round(folder / f"round-{number:03d}", number, rng, seconds).play(kinds[number % len(kinds)])
        done["steps"] = [line["step"] for line in records(Path(done["run"]))] if done["code"] == 0 else []
        report.append(done)
    (folder / "report.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
