"""No run ends without a word: signals, launchers that die, components that raise, streams that cannot be written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from tests.integration.harness import (
    HERE,
    At,
    Notices,
    assert_same_adapter,
    assert_same_run,
    command,
    environment,
    merged,
    python,
    records,
    tiny,
)
from torch import Tensor

import vader
from vader.cli.output import Unfailing, printable
from vader.diffusion import rollout
from vader.runs import launch, watch
from vader.runs.folder import RunFolder

ME = str(Path(__file__).resolve())
SLOW = pytest.mark.slow
"""For what starts processes like a test beside it, which every test run runs."""


def slow(output: Path, steps: int = 400, **changes: Any) -> dict[str, Any]:
    made = tiny(
        output, train={"steps": steps, "warmup_steps": 0, "checkpoint_every": steps, "gradient_accumulation": 1}
    )
    made["rewards"] = [{"name": f"{HERE}:Slow", "label": "slow", "options": {"seconds": 0.05}}]
    return merged(made, changes)


def write(path: Path, made: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(made))
    return path


def processes_of(file: Path) -> list[int]:
    """Living processes that have this file on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                os.fsencode(file) in (folder / "cmdline").read_bytes()
                and "\nState:\tZ" not in (folder / "status").read_text()
            ):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def until(condition: Any, seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


@contextmanager
def started(file: Path, *more: str, run: Sequence[str] = (), **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``vader train``, or what else Python is to run, in a session of its own; what is left of it is ended."""
    arguments = run or ["-m", "vader", "train", str(file), "--trust-code", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen(
        [sys.executable, *arguments], env=environment(), start_new_session=True, text=True, **pipes
    ) as process:
        try:
            yield process
        finally:
            for pid in processes_of(file):
                os.kill(pid, signal.SIGKILL)


def training(folder: Path) -> bool:
    return (folder / "metrics.jsonl").exists() and len(records(folder)) > 2


def children(parent: int, file: Path) -> list[int]:
    return [pid for pid in processes_of(file) if pid != parent]


# -- signals


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_saves(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    result = vader.train(tiny(tmp_path / "run"), listeners=[At(3, lambda: os.kill(os.getpid(), number))])
    assert (result.step, result.stopped) == (3, number.name)
    assert signal.getsignal(number) is before
    vader.train(tiny(tmp_path / "run"), resume=True)
    vader.train(tiny(tmp_path / "whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As ``nohup`` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = vader.train(tiny(tmp_path / "run"), listeners=[At(3, lambda: os.kill(os.getpid(), signal.SIGHUP))])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (result.step, result.stopped) == (6, None)


def test_a_second_signal_from_the_keyboard_interrupts(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGQUIT)

    with pytest.raises(KeyboardInterrupt):
        vader.train(tiny(tmp_path / "run"), listeners=[At(3, twice)])


def test_saved_is_said_where_something_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 1, "save_clips": 0})
    made["validation"]["rewards"] = [{"name": f"{ME}:Interrupts", "label": "held"}]
    code, out, err = command(monkeypatch, capsys, "train", write(tmp_path / "run.yaml", made))
    assert (code, err) == (128 + signal.SIGTERM, "")
    assert "before the first optimizer step; nothing to save. Start it again." in out
    assert "; saved" not in out
    del made["validation"]["rewards"]
    assert command(monkeypatch, capsys, "train", write(tmp_path / "run.yaml", made))[0] == 0, "the next try is blocked"


@pytest.mark.filterwarnings("default:report.html")
def test_a_report_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write(tmp_path / "run.yaml", tiny(tmp_path / "run"))
    assert command(monkeypatch, capsys, "train", made)[0] == 0
    RunFolder(tmp_path / "run").report.unlink()
    RunFolder(tmp_path / "run").report.mkdir()
    code, out, err = command(monkeypatch, capsys, "train", made, "--resume", "--set", "train.steps=7")
    assert code == 0, err
    assert set(err.splitlines()) == {
        f"warning: report.html is not written: cannot write '{tmp_path / 'run' / 'report.html'}': Is a directory. "
        f"`vader report {tmp_path / 'run'}` writes it later."
    }
    assert "\nreport " not in out


class Interrupts:
    """Sends its own process SIGTERM."""

    differentiable: ClassVar[bool] = False

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        os.kill(os.getpid(), signal.SIGTERM)
        return frames.mean(dim=(1, 2, 3, 4))


# -- several processes


@SLOW
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=lambda number: number.name)
def test_children_end_with_their_launcher_and_save(tmp_path: Path, number: signal.Signals) -> None:
    folder, file = tmp_path / "run", write(tmp_path / "run.yaml", slow(tmp_path / "run"))
    with started(file, "--processes", "2") as launcher:
        assert until(lambda: training(folder)), launcher.stderr
        assert len(children(launcher.pid, file)) == 2
        assert listening(children(launcher.pid, file)) <= {"127.0.0.1", "::1"}
        launcher.send_signal(number)
        assert until(lambda: not processes_of(file), 60), "the children train on"
    step = len(records(folder))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{step:06d}"]
    assert launcher.returncode in (-number, 128 + number)


def listening(processes: Sequence[int]) -> set[str]:
    """Addresses at which processes listen."""
    own = set()
    for process in processes:
        own |= {str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir() if path.is_symlink()}
    found = set()
    for table, wide in (("tcp", False), ("tcp6", True)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                host = bytes.fromhex(fields[1].partition(":")[0])
                words = [host[start : start + 4][::-1] for start in range(0, len(host), 4)]
                mapped = b"".join(words)
                loop6 = mapped == bytes(15) + b"\1" or mapped[:13] == bytes(10) + b"\xff\xff\x7f"
                found.add(("::1" if loop6 else mapped.hex()) if wide else ".".join(map(str, mapped)))
    return found


@pytest.mark.parametrize("rank", [pytest.param(0, marks=SLOW), 1])
def test_a_killed_child_is_named(tmp_path: Path, rank: int) -> None:
    folder, file = tmp_path / "run", write(tmp_path / "run.yaml", slow(tmp_path / "run"))
    with started(file, "--processes", "2") as launcher:
        assert until(lambda: training(folder)), launcher.stderr
        mark = f"\0RANK={rank}\0".encode()
        ours = children(launcher.pid, file)
        victim = next(pid for pid in ours if mark in Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(victim, signal.SIGKILL)
        _, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 128 + signal.SIGKILL
    assert err.count("error: ") == 1, err
    assert f"error: process {rank} of 2 was killed by SIGKILL" in err
    said = (
        r"when memory runs out\) in optimizer step \d+, (begin|rollout|decode|reward|backward|optimizer), which ended"
    )
    assert re.search(said, err), err
    assert "--resume" in err
    assert "gloo" not in err.lower()


@SLOW
def test_torchrun_and_processes_resume_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = tiny(
        folder, backbone={"adapter": {"dropout": 0.0}}, train={"steps": 2, "warmup_steps": 0, "schedule": "constant"}
    )
    file = write(tmp_path / "run.yaml", made)
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "vader",
        "train",
        str(file),
        "--trust-code",
    ]
    starts = [
        torchrun,
        ["-m", "vader", "train", str(file), "--trust-code", "--resume", "--processes", "2", "--set", "train.steps=4"],
        [*torchrun, "--resume", "--set", "train.steps=6"],
    ]
    for start in starts:
        done = python(start)
        assert done.returncode == 0, done.stderr[-3000:]
    assert [line["step"] for line in records(folder)] == [1, 2, 3, 4, 5, 6]


@SLOW
def test_the_agent_of_torchrun_passes_sigterm_on(tmp_path: Path) -> None:
    """Both processes save together and exit with 143; the agent's own code is 1."""
    folder, file = tmp_path / "run", write(tmp_path / "run.yaml", slow(tmp_path / "run"))
    train = f"{sys.executable} -m vader train {file} --trust-code"
    noted = f"trap 'kill -TERM $!' TERM; {train} & wait $!; wait $!; echo $? >{tmp_path}/exit-$RANK"
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", "sh", "-c", noted]
    with started(file, run=agent) as launcher:
        assert until(lambda: training(folder)), launcher.stderr
        launcher.terminate()
        out, err = launcher.communicate(timeout=100)
        assert processes_of(file) == []
    step = len(records(folder))
    assert f"stopped by SIGTERM after optimizer step {step}; saved" in out, err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{step:06d}"]
    assert [int((tmp_path / f"exit-{rank}").read_text()) for rank in (0, 1)] == [128 + signal.SIGTERM] * 2
    assert launcher.returncode == 1


@SLOW
def test_a_mistake_that_one_process_alone_makes_is_said(tmp_path: Path) -> None:
    made = tiny(tmp_path / "run")
    made["rewards"] = [{"name": f"{ME}:RaisesInTheSecond", "label": "second"}]
    done = python(["-m", "vader", "train", str(write(tmp_path / "run.yaml", made)), "--trust-code", "--processes", "2"])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "reward 'second' raised ZeroDivisionError: here" in done.stderr


class RaisesInTheSecond:
    """A fault of one rank."""

    differentiable: ClassVar[bool] = True

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        if os.environ.get("RANK") == "1":
            raise ZeroDivisionError("here")
        return frames.mean(dim=(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("codes", "hung", "code", "said"),
    [
        ([0, 0], set(), 0, ""),
        ([-9, launch.PEER_LOST], set(), 137, "process 0 of 2 was killed by SIGKILL (the system does that"),
        ([-9, -9], {0}, 137, "process 1 of 2 was killed"),
        ([launch.PEER_LOST, -11], set(), 139, "process 1 of 2 was killed by SIGSEGV, which"),
        ([launch.PEER_LOST, 2], set(), 2, "said by 1"),
        ([2, launch.PEER_LOST], set(), 2, ""),
        ([143, 143], set(), 143, ""),
    ],
)
def test_the_launchers_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, codes: list[int], hung: set[int], code: int, said: str
) -> None:
    (tmp_path / "one").write_bytes(b"said by 1")
    with (tmp_path / "one").open("rb") as file:
        assert launch._verdict(codes, hung, [None, file], ["", ""], "Go on with --resume.") == code
    err = capsys.readouterr().err
    assert said in err
    assert bool(said) == bool(err)


def test_the_launcher_says_where_one_hung_that_could_not(capsys: pytest.CaptureFixture[str]) -> None:
    positions = [" in optimizer step 3, backward", " in optimizer step 3, rollout"]
    code = launch._verdict([launch.STALLED, -9], {1}, [None, None], positions, "")
    assert code == launch.STALLED
    assert capsys.readouterr().err == ("error: process 1 of 2 was ended in optimizer step 3, rollout, where it hung.\n")


class Hangs:
    """Brightness; the second process does not come back from its third call."""

    def __init__(self) -> None:
        self._calls = 0

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        self._calls += 1
        if os.environ.get("RANK") == "1" and self._calls == 3:
            time.sleep(600)
        return frames.mean(dim=(1, 2, 3, 4))


@SLOW
def test_a_process_that_hangs_ends_the_run(tmp_path: Path) -> None:
    made = slow(tmp_path / "run", train={"timeout": 8})
    made["rewards"] = [{"name": f"{ME}:Hangs", "label": "hangs"}]
    file = write(tmp_path / "run.yaml", made)
    with started(file, "--processes", "2") as launcher:
        _, err = launcher.communicate(timeout=300)
        assert processes_of(file) == []
    assert launcher.returncode == launch.STALLED, err
    assert "process 1 of 2 has made no progress for 8 s (train.timeout) in optimizer step 3, reward" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("file", [True, False])
def test_a_watch_ends_a_process_that_gets_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: bool
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(watch.os, "_exit", lambda code: ended.set() if code == launch.STALLED else None)
    if file:
        monkeypatch.setenv(launch.STORE, str(tmp_path / "store"))
    watched = watch.Watch(1, 2, 0.6)
    try:
        for _ in range(8):
            watched.phase("reward")
            time.sleep(0.1)
        assert not ended.is_set(), "it has made progress all the time"
        watched.step(7)
        watched.phase("backward")
        assert ended.wait(20)
        assert watched.position == "in optimizer step 7, backward"
        if file:
            assert launch._position(tmp_path, 1) == " in optimizer step 7, backward"
    finally:
        watched.end()
    assert "process 1 of 2 has made no progress for 0.6 s" in capsys.readouterr().err
    assert launch._position(tmp_path, 0) == "", "it never said where it was"


@pytest.mark.parametrize(
    ("code", "patient"), [(1, "_GRACE"), (-signal.SIGTERM, "_GRACE"), (128 + signal.SIGINT, "_SAVING")]
)
def test_no_process_waits_for_ever_for_one_that_has_ended(
    monkeypatch: pytest.MonkeyPatch, code: int, patient: str
) -> None:
    """As when one is interrupted while it is loading, and the other waits to meet it."""
    monkeypatch.setattr(launch, "_GRACE", 60.0)
    monkeypatch.setattr(launch, "_SAVING", 60.0)
    monkeypatch.setattr(launch, patient, 0.2)
    end = f"exit {code}" if code > 0 else f"kill -{-code} $$"
    workers: list[Any] = [subprocess.Popen(["sleep", "30"]), subprocess.Popen(["sh", "-c", end])]
    begun = time.monotonic()
    assert launch._wait(workers) == {0}
    assert time.monotonic() - begun < 15
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, code]


# -- whoever raises is named


class Raises:
    """Raises what it is given at the event it is given."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @vader.hookimpl
    def vader_step_finished(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit(7), SystemExit("bye"), RuntimeError("no"), GeneratorExit()]
)
def test_a_listener_that_raises_is_named(tmp_path: Path, error: BaseException) -> None:
    if isinstance(error, GeneratorExit):
        error = Exception("plain")
    with pytest.raises(
        vader.ComponentError, match=rf"listener Raises, at step_finished, raised {type(error).__name__}"
    ):
        vader.train(tiny(tmp_path / "run"), listeners=[Raises(error)])


def test_an_error_of_vaders_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(vader.LaunchError, match="mine"):
        vader.train(tiny(tmp_path / "run"), listeners=[Raises(vader.LaunchError("mine"))])


class Exits:
    """Leaves at its second call."""

    differentiable: ClassVar[bool] = True
    calls = 0

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        self.calls += 1
        if self.calls > 1:
            sys.exit(0)
        return frames.mean(dim=(1, 2, 3, 4))


class ExitsAtOnce(Exits):
    """Leaves while it is constructed."""

    def __init__(self) -> None:
        raise SystemExit(7)


class ExitsInBackward(Exits):
    """Leaves in its gradient."""

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        score = frames.mean(dim=(1, 2, 3, 4))
        if score.requires_grad:
            score.register_hook(lambda _: sys.exit(0))
        return score


class Divides(Exits):
    """A plain fault."""

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        return frames.mean(dim=(1, 2, 3, 4)) * (1 // int(len(prompts) < 0))


class DrawsNothing:
    """A prompt source that leaves."""

    Options = vader.Options

    def __init__(self, options: vader.Options) -> None:
        pass

    def draw(self, n: int, rng: Any) -> list[vader.Prompt]:
        """``n`` prompts."""
        raise SystemExit(0)


NAMED = {
    "Exits": r"reward 'bad' raised SystemExit",
    "ExitsAtOnce": r"reward '.*ExitsAtOnce' raised SystemExit",
    "ExitsInBackward": r"raised SystemExit",
    "Divides": r"reward 'bad' raised ZeroDivisionError",
    "DrawsNothing": r"DrawsNothing.* raised SystemExit",
}


@pytest.mark.parametrize(("name", "said"), NAMED.items(), ids=NAMED.keys())
def test_a_component_that_raises_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    made = tiny(tmp_path / "run")
    if name == "DrawsNothing":
        made["prompts"] = {"name": f"{ME}:{name}"}
    else:
        made["rewards"] = [{"name": f"{ME}:{name}", "label": "bad"}]
    with pytest.raises(vader.VaderError, match=said):
        vader.train(made)
    code, _, err = command(monkeypatch, capsys, "train", write(tmp_path / "run.yaml", made))
    assert (code, err.count("error: ")) == (2, 1)
    assert "not a known mistake" not in err


@pytest.mark.parametrize(
    "fill",
    [
        lambda: torch.empty(2**58, dtype=torch.uint8),
        lambda: bytearray(2**58),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")),
    ],
)
def test_memory_that_runs_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fill: Callable[[], object]
) -> None:
    file = write(tmp_path / "run.yaml", tiny(tmp_path / "run"))
    for owner, name, expected in ((rollout.ClipNoise, "draw", 2), (RunFolder, "require_writable", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda self: fill())
            code, _, err = command(monkeypatch, capsys, "train", file)
        assert (code, err.count("Memory ran out: `vader estimate SPEC`")) == (expected, 1), err
        assert "not a known mistake" not in err


def test_a_second_run_in_a_thread_is_refused(tmp_path: Path) -> None:
    seen: list[BaseException | vader.RunResult] = []

    def other() -> None:
        try:
            seen.append(vader.train(tiny(tmp_path / "other")))
        except BaseException as error:
            seen.append(error)

    def beside() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    vader.train(tiny(tmp_path / "run"), listeners=[At(2, beside)])
    assert len(seen) == 1
    assert isinstance(seen[0], vader.LaunchError)
    assert "running already in this process" in str(seen[0])
    other()
    assert isinstance(seen[1], vader.RunResult)
    assert_same_adapter(tmp_path / "run" / "adapter", tmp_path / "other" / "adapter")


# -- trackers


class Tracker:
    """Stands in for accelerate's."""

    trackers: ClassVar[list[Any]] = []

    def finish(self) -> None:
        raise AttributeError("'Tracker' object has no attribute 'run'")


def test_a_trackers_own_error_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    def refuse(self: Any, *rest: Any, **named: Any) -> None:
        self.trackers.append(Tracker())
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr("vader.resolve.machine.find_spec", lambda name: object())
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: ["tensorboard"])
    monkeypatch.setattr(Accelerator, "init_trackers", refuse)
    with pytest.raises(vader.ComponentError, match=r"tracker tensorboard raised RuntimeError: No API key.*'trackers'"):
        vader.train(tiny(tmp_path / "run", trackers=["tensorboard"]))


def test_a_tracker_that_fails_on_the_way_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    def unreachable(self: Any, *rest: Any, **named: Any) -> None:
        raise ConnectionError("unreachable")

    monkeypatch.setattr("vader.resolve.machine.find_spec", lambda name: object())
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: ["tensorboard"])
    monkeypatch.setattr(Accelerator, "init_trackers", lambda *_, **__: None)
    monkeypatch.setattr(Accelerator, "log", unreachable)
    with pytest.warns(UserWarning, match="tracker tensorboard raised ConnectionError: unreachable.*goes on without"):
        assert vader.train(tiny(tmp_path / "run", trackers=["tensorboard"])).step == 6


# -- printing

NASTY = ["a[/b]", "[bold]x", ":smile:", "{x}", "\x1b[2J\x07", "tab\there"]


def test_a_users_text_is_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a[b] :smile: [/red]"
    made = tiny(folder, validation={"clips": 2, "save_clips": 0})
    made["rewards"] = [{**made["rewards"][0], "label": label} for label in NASTY]
    code, out, err = command(monkeypatch, capsys, "train", write(tmp_path / "run.yaml", made))
    assert (code, err) == (0, "")
    for text in (str(folder), *map(printable, NASTY)):
        assert text in out
    assert "\x1b[2J" not in out
    code, out, err = command(monkeypatch, capsys, "evaluate", folder)
    assert code == 0, err
    assert all(printable(label) in out for label in NASTY)


@SLOW
@pytest.mark.parametrize("stream", ["closed", "full", "head", "both closed"])
def test_printing_ends_no_run(tmp_path: Path, stream: str) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 1, "save_clips": 0, "rewards": [f"{ME}:Prints"]})
    file = write(tmp_path / "run.yaml", made)
    redirect = {"closed": ">&-", "full": ">/dev/full", "head": "| head -1", "both closed": ">&- 2>&-"}[stream]
    line = f'set -o pipefail; "{sys.executable}" -m vader train "{file}" --trust-code {redirect}'
    done = subprocess.run(
        ["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert [line["step"] for line in records(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.parent.name != "code"]
    assert not any(b"printed" in path.read_bytes() for path in written)


class Prints:
    """Prints, as many do, past Python's streams too."""

    differentiable: ClassVar[bool] = False

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` -> ``(b,)``."""
        print("printed", flush=True)
        for descriptor in (1, 2):
            try:
                os.write(descriptor, b"printed\n")
            except OSError:
                continue
        return frames.mean(dim=(1, 2, 3, 4))


@pytest.mark.parametrize(("redirect", "code"), [(">/dev/full", 1), ("| head -1", 0), (">/dev/null", 0)])
def test_a_command_whose_product_is_printed_says_when_it_was_not(redirect: str, code: int) -> None:
    line = f'set -o pipefail; "{sys.executable}" -m vader schema {redirect}'
    done = subprocess.run(
        ["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == code, done.stderr
    assert ("could not be written to stdout: No space left on device" in done.stderr) == (code == 1)


def test_an_unfailing_stream_keeps_the_first_refusal() -> None:
    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise ValueError("closed")

    stream = Unfailing(Full())  # type: ignore[arg-type]
    assert stream.write("text") == 4
    stream.flush()
    assert isinstance(stream.refusal, OSError)
    nothing = Unfailing(None)
    assert (nothing.write("x"), nothing.isatty(), nothing.refusal) == (1, False, None)


# -- words that are true


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"mixed_precision": "fp16"}}, "train.mixed_precision: fp16 needs a GPU"),
        ({"trackers": ["trackio"]}, "trackers.0: 'trackio' is not installed"),
        ({"output": "/proc/vader/run"}, "output: cannot write to '/proc/vader/run'"),
    ],
)
def test_a_dry_run_says_what_this_machine_cannot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr("vader.resolve.machine.find_spec", lambda name: None)
    file = write(tmp_path / "run.yaml", merged(tiny(tmp_path / "run"), changes))
    code, out, _ = command(monkeypatch, capsys, "train", file, "--dry-run")
    assert code == 0
    assert "is sound" in out
    assert f"Not as it is on this machine: {said}" in out
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_that_the_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vader.train(tiny(tmp_path / "run"))
    file = write(tmp_path / "run.yaml", tiny(tmp_path / "run"))
    assert "already holds a run. Resume it with --resume" in command(monkeypatch, capsys, "train", file, "--dry-run")[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    file = write(tmp_path / "run.yaml", tiny(tmp_path / "mine"))
    assert "files that are not a run's" in command(monkeypatch, capsys, "train", file, "--dry-run")[1]


def resumed(folder: Path, **changes: Any) -> str:
    notices = Notices()
    vader.train(tiny(folder, **changes), resume=True, listeners=[notices])
    return str(notices)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_extending_a_schedule_is_said(tmp_path: Path, schedule: str) -> None:
    vader.train(tiny(tmp_path / "run", train={"schedule": schedule, "steps": 4}))
    said = resumed(tmp_path / "run", train={"schedule": schedule, "steps": 8})
    assert ("train.steps was 4 and is 8" in said) == (schedule != "constant")
    if schedule != "constant":
        rates = [line["learning_rate"] for line in records(tmp_path / "run")]
        assert f"from {rates[3]:.3g} at optimizer step 4 to {rates[4]:.3g} at the next" in said


def test_a_shorter_run_than_was_made_is_said(tmp_path: Path) -> None:
    vader.train(tiny(tmp_path / "run"))
    assert "6 optimizer steps are done, and train.steps is 3 now" in resumed(tmp_path / "run", train={"steps": 3})


@pytest.mark.parametrize("changes", [{"clips": 3}, {"seed": 9}, {"rewards": [f"{ME}:Prints"]}])
def test_a_changed_validation_is_said(tmp_path: Path, changes: dict[str, Any]) -> None:
    base = {"clips": 2, "save_clips": 0}
    vader.train(tiny(tmp_path / "run", validation=base))
    said = resumed(tmp_path / "run", validation={**base, **changes})
    assert f"validation.{next(iter(changes))}: " in said
    assert "no 'before'" in said
    assert resumed(tmp_path / "run", validation={**base, **changes, "save_clips": 1}) == ""


def test_the_seed_in_the_report_makes_its_clip_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny(tmp_path / "run", validation={"clips": 3, "save_clips": 3})
    result = vader.train(made)
    scale = RunFolder(tmp_path / "run").validation(6)
    for clip in result.validations[-1].clips:
        again = vader.generate(tmp_path / "run", [clip.prompt], seeds=[clip.seed])[0]
        score = -(again.frames.mean() - 1).abs()
        assert float(score) == pytest.approx(clip.scores["brightness"], abs=1e-6)
        (tmp_path / "clips").mkdir(exist_ok=True)
        arguments = ["generate", tmp_path / "run", "-p", clip.prompt, "--seed", clip.seed, "-o", tmp_path / "clips"]
        assert command(monkeypatch, capsys, *arguments, "--enlarge", 32)[0] == 0
        made_again = tmp_path / "clips" / f"clip-000-seed-{clip.seed}.mp4"
        assert made_again.read_bytes() == (scale / f"clip-{clip.index:03d}.mp4").read_bytes()


def test_a_seed_means_what_it_means_to_a_generator_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vader.diffusion.rollout import ClipNoise

    noise = ClipNoise([7], (2, 3), torch.device("cpu"), torch.float32).draw()
    assert torch.equal(noise, torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(7)))
    seen: list[Sequence[int]] = []
    real = ClipNoise.__init__

    def note(self: Any, seeds: Sequence[int], *rest: Any) -> None:
        seen.append(list(seeds))
        real(self, seeds, *rest)

    monkeypatch.setattr(ClipNoise, "__init__", note)
    vader.generate(tiny(tmp_path / "run"), ["a red circle"], seeds=[7, 0])
    assert seen == [[7], [0]]


@pytest.mark.parametrize("seed", [-1, 2**64, True, 0.5, "7"])
def test_a_seed_that_is_none_is_refused(tmp_path: Path, seed: Any) -> None:
    with pytest.raises(vader.SpecError, match="whole numbers from 0"):
        vader.generate(tiny(tmp_path / "run"), ["a red circle"], seeds=[seed])
