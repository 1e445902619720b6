"""Two processes do what one does with the doubled batch, and a run that is not in the processes asked for stops."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from accelerate import Accelerator, PartialState
from tests.integration.harness import (
    BACKBONE,
    BRIGHTNESS,
    HERE,
    PROMPT_LENGTH,
    WORDING,
    Notices,
    adapter,
    assert_same_adapter,
    assert_same_run,
    environment,
    merged,
    python,
    records,
    tiny,
    validation_file,
)
from tests.integration.rank_runner import gradients
from torch import Tensor

import vader
from vader.plugins import registry
from vader.runs import checkpoint
from vader.runs import engine as device
from vader.runs.step_shares import step_shares

WINDOWS = {
    "last, recomputed": {"mode": "last", "recompute": True},
    "last, kept": {"mode": "last", "recompute": False},
    "tail 4, recomputed": {"mode": "tail", "k": 4, "recompute": True},
    "tail 4, kept": {"mode": "tail", "k": 4, "recompute": False},
    "rand, conditional": {"mode": "rand", "branches": "conditional"},
}
METHODS: dict[str, dict[str, Any]] = {
    "ddpo": {"name": "ddpo", "options": {"group_size": 2, "min_count": 2, "inner_epochs": 2, "kl_weight": 0.1}},
    "dpo": {"name": "dpo", "options": {"inner_epochs": 2, "beta": 20.0}},
    "divergence": {"name": "reward_gradient", "options": {"kl_weight": 0.3}},
    "mixgrpo": {"name": "mixgrpo", "options": {"group_size": 4, "window": 2, "every": 1, "reuse": 2}},
    "nft": {"name": "nft", "options": {"group_size": 4, "reuse": 2, "decay_rate": 0.3}},
    "awm": {"name": "awm", "options": {"group_size": 4, "reuse": 2, "draws": 2, "weighting": "t"}},
    "flowbp": {"name": "flowbp", "options": {"variant": "bridge", "reuse": 2}},
    "leapalign": {"name": "leapalign"},
    "srpo": {"name": "srpo"},
}
"""Methods of which two processes must do what one does with the doubled batch."""
RESUMED = ["ddpo", "dpo", "nft"]
"""Those that every test run resumes: on-policy, by pairs, with weights of its own; `nox -s slow` resumes the others."""
TOLERANCE = 1e-6


def spec(output: Path, batch: int, **changes: Any) -> dict[str, Any]:
    """CFG on, two micro-steps, two rewards, no dropout (its masks are drawn a process), nothing clipped."""
    made = tiny(
        output,
        backbone={"adapter": {"dropout": 0.0}},
        sampler={"steps": 5, "guidance_scale": 3.0},
        train={
            "steps": 3,
            "batch_size": batch,
            "schedule": "constant",
            "warmup_steps": 0,
            "checkpoint_every": 2,
            "max_grad_norm": 1e9,
        },
        validation={"clips": 3, "save_clips": 2, "batch_size": 1, "rewards": [PROMPT_LENGTH]},
    )
    rewards = [*made["rewards"], {"name": BRIGHTNESS, "label": "grey", "weight": 0.5, "options": {"level": 0.5}}]
    return merged({**made, "rewards": rewards}, changes)


def method_spec(output: Path, batch: int, name: str, **changes: Any) -> dict[str, Any]:
    """A run under one of METHODS, its moving average kept; two clips a batch make a pair."""
    given: dict[str, Any] = {"gradient": {"mode": "last"}, "train": {"ema_decay": 0.9, "steps": 4}}
    given |= {"sampler": {"eta": 1.0}, "method": METHODS[name]}
    if name in ("flowbp", "leapalign", "srpo"):
        given |= {"sampler": {"name": "flow_euler"}, "backbone": {"options": {"prediction": "flow"}}}
    if name == "srpo":
        given["rewards"] = [{"name": WORDING, "contrast": {"positive": "sharp.", "negative": "dull."}}]
    made = spec(output, 2 * batch, **merged(given, changes))
    return merged(made, {"rewards": given["rewards"]}) if "rewards" in given else made


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def method_runs(folder: Path, name: str, *, resumed: bool) -> list[dict[str, Any]]:
    """A run under a method, and one stopped after optimizer steps 1 and 3."""
    runs = [{"name": name, "spec": method_spec(folder / name, 1, name), "resume": False}]
    for step in (1, 3, 4) if resumed else ():
        made = method_spec(folder / f"{name}-resumed", 1, name, train={"steps": step})
        runs.append({"name": f"{name}-resumed{step}", "spec": made, "resume": step > 1})
    return runs


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two processes under the methods that are not :data:`RESUMED`."""
    folder = tmp_path_factory.mktemp("others")
    names = [name for name in METHODS if name not in RESUMED]
    launched(2, [run for name in names for run in method_runs(folder, name, resumed=True)], folder)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All other runs of two processes, under torch's launcher: per window a run, then one stopped and resumed."""
    folder = tmp_path_factory.mktemp("pair")
    runs = [
        {"name": slug(name), "spec": spec(folder / slug(name), 1, gradient=window), "resume": False}
        for name, window in WINDOWS.items()
    ]
    for name in METHODS:
        runs += method_runs(folder, name, resumed=name in RESUMED)
    dropout = {"backbone": {"adapter": {"dropout": 0.2}}}
    for name, steps in (("unbroken", [3]), ("resumed", [1, 2, 3])):
        for step in steps:
            made = spec(folder / name, 1, train={"steps": step}, **dropout)
            runs.append({"name": f"{name}{step}", "spec": made, "resume": step > steps[0]})
    vader.train(counted(folder / "1-to-2", 6, 5))
    runs.append({"name": "1-to-2", "spec": counted(folder / "1-to-2", 6, 10), "resume": True})
    runs.append({"name": "2-to-2", "spec": counted(folder / "2-to-2", 3, 10), "resume": False})
    faulty = spec(folder / "faulty", 1, validation={"clips": 0})
    faulty["rewards"] = [{"name": f"{HERE}:FaultyInOne", "label": "faulty"}]
    runs.append({"name": "faulty", "spec": faulty, "resume": False})
    runs.append({"name": "2-to", "spec": counted(folder / "2-to", 3, 5), "resume": False})
    launched(2, runs, folder)
    return folder


def launched(processes: int, runs: list[dict[str, Any]], folder: Path) -> None:
    (folder / "runs.json").write_text(json.dumps(runs))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = python([*launcher, "-m", "tests.integration.rank_runner", str(folder / "runs.json"), str(folder)])
    assert done.returncode == 0, done.stderr[-6000:]


def counted(output: Path, accumulation: int, steps: int) -> dict[str, Any]:
    """A run of six batches in an optimizer step, each with a window and a frame of its own draw, over ten of them."""
    train = {"steps": steps, "gradient_accumulation": accumulation, "checkpoint_every": 5}
    return spec(output, 1, gradient={"mode": "rand"}, frames={"mode": "random"}, train=train, validation={"clips": 0})


def read(folder: Path, name: str) -> list[list[list[Tensor]]]:
    """By rank, optimizer step and parameter."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Relative to the whole gradient's norm."""
    first, second = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (one, other))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_are_those_of_one_process_with_the_doubled_batch(pair: Path, tmp_path: Path, window: str) -> None:
    first, second = read(pair, slug(window))
    assert len(first) == 3
    for step, (one, other) in enumerate(zip(first, second, strict=True)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)), f"ranks differ at step {step}"
        assert all(tensor.dim() == 2 for tensor in one), "a parameter has no gradient"
    alone = gradients(spec(tmp_path / "one", 2, gradient=WINDOWS[window]))
    assert len(alone) == 3
    far = [distance(one, other) for one, other in zip(first, alone, strict=True)]
    assert max(far) <= TOLERANCE, far
    assert distance(alone[0], alone[1]) > 0.01, "steps have gradients of their own"
    for two, one in zip(records(pair / slug(window)), records(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
    for name, tensor in adapter(tmp_path / "one" / "adapter").items():
        torch.testing.assert_close(adapter(pair / slug(window) / "adapter")[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_methods_give_the_gradients_of_one_process_with_the_doubled_batch(
    pair: Path, tmp_path: Path, name: str
) -> None:
    first, second = read(pair, name)
    assert len(first) == 4
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    alone = gradients(method_spec(tmp_path / "one", 2, name))
    assert distance(first[0], alone[0]) <= TOLERANCE
    assert distance(alone[0], alone[1]) > 0.01, "steps have gradients of their own"
    for two, one in zip(records(pair / name), records(tmp_path / "one"), strict=True):
        assert two["reward"] == pytest.approx(one["reward"], rel=1e-3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in RESUMED)) for name in METHODS]
)
def test_methods_resume_bit_equal_in_two_processes(request: pytest.FixtureRequest, name: str) -> None:
    """Stopped after optimizer steps 1 and 3, in the middle of a round of clips."""
    folder: Path = request.getfixturevalue("pair" if name in RESUMED else "others")
    assert_same_run(folder / f"{name}-resumed", folder / name)


def test_each_process_makes_clips_of_its_own(tmp_path: Path, pair: Path) -> None:
    """One process with the single batch has another gradient: the second process adds something."""
    window = "last, kept"
    alone = gradients(spec(tmp_path / "one", 1, gradient=WINDOWS[window]))
    assert distance(read(pair, slug(window))[0][0], alone[0]) > 0.01


def test_micro_steps_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    """Two micro-steps of one clip are one of two: clips and size of the gradient are the same."""
    plain = {"gradient": {"mode": "last"}, "frames": {"mode": "all"}}
    one = gradients(spec(tmp_path / "one", 2, **plain, train={"gradient_accumulation": 1}))
    two = gradients(spec(tmp_path / "two", 1, **plain, train={"gradient_accumulation": 2}))
    assert max(distance(a, b) for a, b in zip(two, one, strict=True)) <= TOLERANCE


def test_validation_is_shared_out(pair: Path, tmp_path: Path) -> None:
    """Three clips over two processes are the three clips of one process, and so are their files."""
    window = "last, kept"
    vader.train(spec(tmp_path / "one", 2, gradient=WINDOWS[window]))
    two, one = (run / "samples" / "step-000000" for run in (pair / slug(window), tmp_path / "one"))
    assert sorted(path.name for path in one.iterdir()) == ["clip-000.mp4", "clip-001.mp4", "validation.json"]
    for path in one.glob("*.mp4"):
        assert (two / path.name).read_bytes() == path.read_bytes()
    assert validation_file(two / "validation.json") == validation_file(one / "validation.json")


def test_two_processes_resume_bit_equal(pair: Path) -> None:
    assert_same_run(pair / "resumed", pair / "unbroken")
    whole, pieces = read(pair, "unbroken3"), [read(pair, f"resumed{step}") for step in (1, 2, 3)]
    for rank in (0, 1):
        resumed = [step for piece in pieces for step in piece[rank]]
        assert len(resumed) == 3
        for one, other in zip(whole[rank], resumed, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_alike(one: Path, other: Path) -> None:
    """Ten optimizer steps with equal metrics, but for rounding."""
    first, second = records(one), records(other)
    assert len(first) == len(second) == 10
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    assert first[0]["gradient/k"] != first[1]["gradient/k"], "windows are drawn"


def test_one_process_goes_on_for_two(pair: Path, tmp_path: Path) -> None:
    folder, notices = shutil.copytree(pair / "2-to", tmp_path / "run"), Notices()
    vader.train(counted(folder, 3, 10), resume=True, listeners=[notices])
    assert "step-000005 was written by 2 processes" in str(notices)
    assert "6 clips as before" in str(notices)
    assert "with 6 micro-steps in each process" in str(notices)
    assert_alike(folder, pair / "2-to-2")
    assert json.loads((folder / "environment.json").read_text())["clips_per_step"] == 6


def test_two_processes_go_on_for_one(pair: Path, tmp_path: Path) -> None:
    vader.train(counted(tmp_path / "one", 6, 10))
    assert_alike(pair / "1-to-2", tmp_path / "one")


@pytest.mark.slow
def test_three_processes_go_on_for_two(pair: Path, tmp_path: Path) -> None:
    """Each draw of a micro-step is for two batches; three processes have their micro-steps' draws from two of them."""
    folder = shutil.copytree(pair / "2-to", tmp_path / "run")
    launched(3, [{"name": "2-to-3", "spec": counted(folder, 3, 10), "resume": True}], tmp_path)
    assert_alike(folder, pair / "2-to-2")


def test_a_number_of_processes_that_cannot_go_on(pair: Path, tmp_path: Path) -> None:
    """Six batches are no four processes'; and what is between two optimizer steps on the same clips stays theirs."""
    found = checkpoint.verify(pair / "2-to" / "checkpoints" / "step-000005")
    train = vader.RunSpec.model_validate(counted(tmp_path / "run", 3, 10)).train
    said = r"step-000005 is of a run with 6 batches.*4 processes cannot have equally many.*one of 1, 2, 3, 6 processes"
    with pytest.raises(vader.CheckpointError, match=said):
        step_shares(train, 4, found)
    folder = shutil.copytree(pair / "dpo-resumed", tmp_path / "dpo")
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    with pytest.raises(vader.CheckpointError, match="step-000003 lies between two of the 2 optimizer steps"):
        vader.train(method_spec(folder, 1, "dpo"), resume=True)


def test_all_processes_skip_an_optimizer_step_or_none(pair: Path) -> None:
    """The reward of the second one is NaN in the second of three optimizer steps."""
    assert [record["skipped"] for record in records(pair / "faulty")] == [0.0, 1.0, 0.0]
    first, second = read(pair, "faulty")
    assert len(first) == len(second) == 2
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# -- through the command line


def write(path: Path, made: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(made))
    return path


def test_the_command_starts_two_processes(pair: Path, tmp_path: Path) -> None:
    window = "last, recomputed"
    made = spec(tmp_path / "run", 1, gradient=WINDOWS[window])
    made["train"]["device"] = "auto"
    file = write(tmp_path / "run.yaml", made)
    done = python(["-m", "vader", "train", str(file), "--trust-code", "--processes", "2", "--set", "train.device=cpu"])
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("\nreport  ") == 1, "every process prints"
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    assert records(tmp_path / "run") == records(pair / slug(window))
    assert_same_adapter(tmp_path / "run" / "adapter", pair / slug(window) / "adapter")


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT], ids=lambda number: number.name
)
def test_a_signal_to_the_command_saves(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM, as a cluster sends it to the command alone; Ctrl-C, which reaches the whole foreground group."""
    folder = tmp_path / "run"
    made = spec(folder, 1, train={"steps": 400, "checkpoint_every": 400}, validation={"clips": 0})
    made["rewards"] = [{"name": f"{HERE}:Slow", "label": "slow", "options": {"seconds": 0.05}}]
    code, out, err = interrupted(write(tmp_path / "run.yaml", made), folder, number)
    step = len(records(folder))
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert 0 < step < 400
    assert saved[-1] == f"step-{step:06d}", f"nothing was saved: {code} {out[-2000:]} {err[-3000:]}"
    assert code == 128 + number, err[-3000:]
    assert f"stopped by {number.name} after optimizer step {step}; saved" in out
    assert "Traceback" not in err, err


@pytest.mark.slow
def test_two_processes_and_a_folder_in_use(pair: Path, tmp_path: Path) -> None:
    """A mistake that is known only when the run opens its folder."""
    folder = shutil.copytree(pair / "2-to", tmp_path / "run")
    file = write(tmp_path / "run.yaml", counted(folder, 3, 10))
    done = python(["-m", "vader", "train", str(file), "--trust-code", "--processes", "2"])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("already holds a run") == 1
    assert "Traceback" not in done.stderr
    assert "RuntimeError" not in done.stderr, "the other process complains that the first is gone"


def interrupted(file: Path, folder: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Start the command with two processes and send a signal when an optimizer step is done."""
    command = [sys.executable, "-m", "vader", "train", str(file), "--trust-code", "--processes", "2"]
    with subprocess.Popen(
        command, env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and process.poll() is None:
                if (folder / "metrics.jsonl").exists() and records(folder):
                    break
                time.sleep(0.1)
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            out, err = process.communicate(timeout=200)
        finally:
            left = processes_of(file)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    assert left == [], "the processes that train outlive the command"
    return process.returncode, out, err


def processes_of(file: Path) -> list[int]:
    """Living processes that have this file on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(file) in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


# -- a run that is not in the processes asked for


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when weights are loaded."""
    monkeypatch.setattr(registry.load("backbone", BACKBONE), "__init__", lambda *_: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("unloaded")
class TestWorldSize:
    """LaunchError before weights load."""

    def test_two_asked_for_and_one_started(self, tmp_path: Path) -> None:
        with pytest.raises(vader.LaunchError, match=r"asks for 2 processes, but 1 started.*--processes 2"):
            vader.train(spec(tmp_path / "run", 1, train={"processes": 2}))
        assert not (tmp_path / "run").exists()

    def test_two_asked_for_and_a_launcher_that_says_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "1")
        with pytest.raises(vader.LaunchError, match="asks for 2 processes, but 1 started"):
            vader.train(spec(tmp_path / "run", 1, train={"processes": 2}))

    def test_one_asked_for_and_a_launcher_that_says_two(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(vader.LaunchError, match="asks for 1 processes, but 2 started"):
            vader.train(spec(tmp_path / "run", 1, train={"processes": 1}))

    def test_a_launcher_that_says_two_but_one_joined(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """accelerate does not understand the launcher: each process would train alone, all in one folder."""

        def alone(**arguments: Any) -> Accelerator:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("WORLD_SIZE")
                return Accelerator(**arguments)

        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(device, "Accelerator", alone)
        with pytest.raises(vader.LaunchError, match="started 2 processes, but 1 joined"):
            vader.train(spec(tmp_path / "run", 1))

    def test_a_world_size_without_a_meeting_point(self, tmp_path: Path) -> None:
        """As left in an environment by a launcher's wrapper; accelerate's own words reach the user."""
        PartialState._reset_state()
        try:  # accelerate adds to the environment
            with mock.patch.dict(os.environ, WORLD_SIZE="2"), pytest.raises(vader.LaunchError, match="MASTER_ADDR"):
                vader.train(spec(tmp_path / "run", 1))
        finally:
            PartialState._reset_state()

    def test_accelerate_launch_on_cpu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It starts one process whatever it is asked for, and leaves these traces."""
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        with pytest.raises(vader.LaunchError, match=r"accelerate launch.*started one.*--processes"):
            vader.train(spec(tmp_path / "run", 1))
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_real_accelerate_launch_on_cpu(tmp_path: Path) -> None:
    """The trap itself, not its traces: whatever this version does, two processes train or none does."""
    file = write(tmp_path / "run.yaml", spec(tmp_path / "run", 1))
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--mixed_precision", "no"]
    done = python([*launcher, "-m", "vader", "train", str(file), "--trust-code"])
    if done.returncode == 0:
        assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    else:
        assert "accelerate launch" in done.stderr
        assert not (tmp_path / "run").exists()
