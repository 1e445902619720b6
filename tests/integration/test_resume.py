"""A run that is stopped and resumed ends bit-equal to one that is not; what cannot be resumed is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import (
    ADAPTER_FILE,
    FAKES,
    PROMPT_LENGTH,
    ROOT,
    At,
    Crash,
    Notices,
    adapter,
    assert_same_adapter,
    assert_same_run,
    crash,
    flip,
    left_behind,
    records,
    tiny,
    truncate,
)

import vader
from vader.diffusion import guidance
from vader.runs import checkpoint, session
from vader.runs.folder import RunFolder

STEPS = 6


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, never interrupted."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    result = vader.train(tiny(folder))
    assert (result.step, result.stopped) == (STEPS, None)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after optimizer step 5; its checkpoints are of steps 2 and 4. Copy it, do not change it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Crash):
        vader.train(tiny(folder), listeners=[At(5, crash)])
    assert names(folder) == ["step-000002", "step-000004"]
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the crashed run."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def resume(folder: Path, **changes: Any) -> tuple[vader.RunResult, Notices]:
    notices = Notices()
    return vader.train(tiny(folder, **changes), resume=True, listeners=[notices]), notices


# -- stopped by a signal or by a crash


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_signal_saves_and_the_run_resumes_bit_equal(
    unbroken: Path, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    folder = tmp_path / "run"
    before = signal.getsignal(number)
    result = vader.train(tiny(folder), listeners=[At(step, lambda: os.kill(os.getpid(), number))])
    assert (result.step, result.stopped) == (step, number.name)
    assert signal.getsignal(number) is before, "the handler of the caller is not back"
    assert f"step-{step:06d}" in names(folder), "a signal saves first"
    assert not (folder / "adapter").exists(), "an unfinished run has no final adapter"
    result, _ = resume(folder)
    assert (result.step, result.stopped) == (STEPS, None)
    assert_same_run(folder, unbroken)


def test_a_signal_in_a_validation_saves_too(tmp_path: Path) -> None:
    """Where no checkpoint is due."""

    class Now:
        @vader.hookimpl
        def vader_validation_finished(self, validation: vader.Validation) -> None:
            if validation.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    changes = {"train": {"validate_every": 1, "checkpoint_every": 100}, "validation": {"clips": 1, "save_clips": 0}}
    folder, unbroken = tmp_path / "run", tmp_path / "unbroken"
    result = vader.train(tiny(folder, **changes), listeners=[Now()])
    assert (result.step, result.stopped) == (3, "SIGTERM")
    assert names(folder) == ["step-000003"]
    vader.train(tiny(unbroken, **changes))
    resume(folder, **changes)
    assert_same_run(folder, unbroken)


def test_the_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        vader.train(tiny(tmp_path / "run"), listeners=[At(3, twice)])
    assert names(tmp_path / "run") == ["step-000002"]


def test_a_crash_between_checkpoints_resumes_bit_equal(unbroken: Path, copy: Path) -> None:
    assert [line["step"] for line in records(copy)] == [1, 2, 3, 4, 5]
    started: list[int] = []

    class Start:
        @vader.hookimpl
        def vader_run_started(self, run: vader.Run) -> None:
            started.append(run.start_step)

    result = vader.train(tiny(copy), resume=True, listeners=[Start()])
    assert (started, result.step) == ([4], STEPS)
    assert_same_run(copy, unbroken)


def test_interrupted_at_every_step(unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for step in range(1, STEPS):
        listener = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert vader.train(tiny(folder), resume=True, listeners=[listener]).step == step
    resume(folder)
    assert_same_run(folder, unbroken)


def test_randomness_of_the_run_is_its_own(unbroken: Path, tmp_path: Path) -> None:
    """The comparison above means something: another seed gives other numbers, a listener that draws does not hurt."""
    vader.train(tiny(tmp_path / "other", train={"seed": 1}))
    assert records(tmp_path / "other") != records(unbroken)
    assert {line["gradient/k"] for line in records(unbroken)} != {3.0}, "the window is random"


def test_resume_of_a_finished_run_changes_nothing(unbroken: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(unbroken, tmp_path / "run"))
    before = names(folder)
    metrics = (folder / "metrics.jsonl").read_bytes()
    result, notices = resume(folder)
    assert (result.step, result.stopped, notices.texts) == (STEPS, None, [])
    assert names(folder) == before
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    assert_same_run(folder, unbroken)


def test_resume_of_an_empty_folder_begins(unbroken: Path, tmp_path: Path) -> None:
    result, notices = resume(tmp_path / "run")
    assert (result.step, notices.texts) == (STEPS, [])
    assert_same_run(tmp_path / "run", unbroken)


# -- what may change, and what may not


def test_a_used_folder_is_refused_without_resume(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(vader.RunFolderError, match="already holds a run") as error:
        vader.train(tiny(copy))
    assert "--resume" in str(error.value)
    assert str(copy) in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"train": {"learning_rate": 0.02}}, "train.learning_rate: 0.01 then, 0.02 now"),
    ({"train": {"seed": 3}}, "train.seed: 0 then, 3 now"),
    ({"backbone": {"adapter": {"rank": 4}}}, "backbone.adapter.rank: 2 then, 4 now"),
    ({"backbone": {"options": {"seed": 1}}}, "backbone.options.seed: None then, 1 now"),
    ({"gradient": {"mode": "last"}}, "gradient.mode: 'rand' then, 'last' now"),
    ({"rewards": [{"name": PROMPT_LENGTH.replace("PromptLength", "Brightness"), "weight": 2.0}]}, "rewards: "),
]


@pytest.mark.parametrize(("changes", "named"), CHANGES, ids=[named.split(":")[0] for _, named in CHANGES])
def test_resume_with_another_spec_is_refused(copy: Path, changes: dict[str, Any], named: str) -> None:
    metrics = (copy / "metrics.jsonl").read_bytes()
    with pytest.raises(vader.RunFolderError) as error:
        resume(copy, **changes)
    assert named in str(error.value)
    assert "another folder" in str(error.value)
    assert (copy / "metrics.jsonl").read_bytes() == metrics


def test_every_change_is_named(copy: Path) -> None:
    with pytest.raises(vader.RunFolderError) as error:
        resume(copy, train={"learning_rate": 0.02, "seed": 3}, sampler={"steps": 4})
    for path in ("train.learning_rate", "train.seed", "sampler.steps"):
        assert path in str(error.value)


def test_free_fields_may_change(unbroken: Path, copy: Path) -> None:
    free = {
        "train": {"checkpoint_every": 1, "validate_every": 3, "max_nonfinite": 9},
        "validation": {"clips": 1, "save_clips": 0, "rewards": [PROMPT_LENGTH]},
    }
    result, _ = resume(copy, **free)
    assert [validation.step for validation in result.validations] == [6]
    assert names(copy) == ["step-000002", "step-000004", "step-000005", "step-000006"]
    assert records(copy) == records(unbroken)
    assert_same_adapter(copy / "adapter", unbroken / "adapter")


def test_a_longer_run_goes_on_from_a_finished_one(tmp_path: Path) -> None:
    constant = {"schedule": "constant"}
    vader.train(tiny(tmp_path / "long", train=constant))
    vader.train(tiny(tmp_path / "short", train={**constant, "steps": 3}))
    resume(tmp_path / "short", train=constant)
    assert_same_run(tmp_path / "short", tmp_path / "long")


def test_a_moved_folder_resumes(unbroken: Path, stopped: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(stopped, tmp_path / "elsewhere" / "run"))
    resume(moved)
    assert_same_run(moved, unbroken)


def test_checkpoints_of_another_spec_are_not_taken_when_spec_yaml_is_lost(copy: Path) -> None:
    """The manifest knows the spec's digest."""
    (copy / "spec.yaml").unlink()
    with pytest.raises(vader.VaderError):
        resume(copy, train={"learning_rate": 0.02})


def test_a_folder_with_checkpoints_but_no_spec_is_not_taken_for_an_empty_one(copy: Path) -> None:
    (copy / "spec.yaml").unlink()
    with pytest.raises(vader.VaderError):
        vader.train(tiny(copy))


def test_a_spec_yaml_that_was_edited_wrongly_is_a_clear_error(copy: Path) -> None:
    text = (copy / "spec.yaml").read_text()
    (copy / "spec.yaml").write_text(text.replace("rank: 2", "rank: two"))
    with pytest.raises(vader.VaderError, match="rank"):
        resume(copy)


# -- damage

DAMAGE: dict[str, Callable[[Path], object]] = {
    "adapter truncated": lambda newest: truncate(newest / "adapter" / ADAPTER_FILE),
    "adapter flipped": lambda newest: flip(newest / "adapter" / ADAPTER_FILE, 0.9),
    "adapter missing": lambda newest: (newest / "adapter" / ADAPTER_FILE).unlink(),
    "optimizer truncated": lambda newest: truncate(newest / "optimizer.pt"),
    "optimizer flipped": lambda newest: flip(newest / "optimizer.pt"),
    "optimizer empty": lambda newest: (newest / "optimizer.pt").write_bytes(b""),
    "rng flipped": lambda newest: flip(newest / "rng-0.json"),
    "rng missing": lambda newest: (newest / "rng-0.json").unlink(),
    "manifest missing": lambda newest: (newest / "manifest.json").unlink(),
    "manifest empty": lambda newest: (newest / "manifest.json").write_bytes(b""),
    "manifest truncated": lambda newest: truncate(newest / "manifest.json"),
    "manifest garbage": lambda newest: (newest / "manifest.json").write_bytes(os.urandom(200)),
    "manifest a list": lambda newest: (newest / "manifest.json").write_text("[]"),
    "manifest without files": lambda newest: (newest / "manifest.json").write_text(
        json.dumps({**json.loads((newest / "manifest.json").read_text()), "files": {}})
    ),
    "a file in its place": lambda newest: (shutil.rmtree(newest), newest.write_text("not a folder")),
    "an empty folder": lambda newest: (shutil.rmtree(newest), newest.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_newest_checkpoint_is_passed_over(
    unbroken: Path, copy: Path, damage: Callable[[Path], object]
) -> None:
    damage(copy / "checkpoints" / "step-000004")
    result, notices = resume(copy)
    assert len(notices.texts) == 1
    assert "step-000004" in str(notices)
    assert "before it is used" in str(notices)
    assert result.step == STEPS
    assert_same_run(copy, unbroken)
    assert left_behind(copy) == []


def test_any_changed_byte_of_a_manifest_is_noticed(copy: Path) -> None:
    """Step, counters and processes too, which no other file could contradict."""
    newest = copy / "checkpoints" / "step-000004"
    sound, manifest = checkpoint.verify(newest), newest / "manifest.json"
    data = manifest.read_bytes()
    unnoticed = []
    for place in range(len(data)):
        manifest.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            if checkpoint.verify(newest) != sound:
                unnoticed.append(data[max(0, place - 20) : place + 5])
        except vader.CheckpointError:
            continue
    assert unnoticed == []


def test_all_damaged_stops_and_says_the_ways_out(copy: Path) -> None:
    for path in (copy / "checkpoints").iterdir():
        flip(path / "optimizer.pt")
    before = contents(copy)
    with pytest.raises(vader.CheckpointError) as error:
        resume(copy)
    for said in ("step-000004", "step-000002", "5 optimizer steps", "another folder", "move this one away"):
        assert said in str(error.value)
    assert contents(copy) == before, "history was touched"


@pytest.mark.parametrize("tail", ['{"step": 6, "loss": 0.1', '{"step"', "\x00\x00\x00", '{"step": 6}\n{"st'])
def test_a_torn_last_line_of_metrics(unbroken: Path, copy: Path, tail: str) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(tail)
    resume(copy)
    assert_same_run(copy, unbroken)


def test_leftovers_of_a_killed_writer_are_cleared(unbroken: Path, copy: Path) -> None:
    partial = copy / "checkpoints" / ".step-000005.partial"
    (partial / "adapter").mkdir(parents=True)
    (partial / "adapter" / ADAPTER_FILE).write_bytes(b"half")
    (copy / ".spec.yaml.partial").write_text("half")
    (copy / "samples" / "step-000000").mkdir()
    (copy / "samples" / "step-000000" / ".clip-000.partial.mp4").write_bytes(b"half")
    resume(copy)
    assert left_behind(copy) == []
    assert_same_run(copy, unbroken)


@pytest.mark.parametrize("apart", [True, False])
def test_a_folder_of_an_earlier_version_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """``tests/golden/run_folder_a`` was written before checkpoints were kept by a registry, and clips told no size.

    It was also written when each guidance branch was a call of its own, which drew its own masks of the adapter's
    dropout; both branches are one call now, and the same generator gives its rows other masks. That is all that has
    become of the numbers: with two calls a run of today is the one of then, but for what another processor rounds.
    """
    golden = ROOT / "tests" / "golden" / "run_folder_a"
    made = tiny("run", train={"ema_decay": 0.9, "validate_every": 2}, validation={"clips": 2, "save_clips": 0})
    made["backbone"]["name"], made["rewards"][0]["name"] = "./fakes.py:FakeBackbone", "./fakes.py:Brightness"
    for name in ("old", "whole"):
        (tmp_path / name).mkdir()
        shutil.copy(FAKES, tmp_path / name)
    shutil.copytree(golden, tmp_path / "old" / "run")
    if apart:
        monkeypatch.setattr(guidance, "_alike", lambda *branches: False)
    monkeypatch.chdir(tmp_path / "whole")
    whole = vader.train(made)
    monkeypatch.chdir(tmp_path / "old")
    seen = Notices()
    gone_on = vader.train(made, resume=True, listeners=[seen])
    old, new = tmp_path / "old" / "run", tmp_path / "whole" / "run"
    assert (seen.texts, gone_on.step) == ([], STEPS)
    assert records(old)[:4] == records(golden)
    assert [line["step"] for line in records(old)] == list(range(1, STEPS + 1))
    assert [one.size is None for one in gone_on.validations] == [True, True, True, False], "the last one is made anew"
    states = [torch.load(path / "optimizer.pt") for path in sorted((old / "checkpoints").iterdir())]
    assert states[0].keys() == states[1].keys() == {"optimizer", "scaler", "average", "methods"}
    assert [state["average"]["updates"] for state in states] == [4, 6]
    assert session.newest_adapter(RunFolder(Path("run"))) == Path("run/adapter")
    if not apart:
        assert records(new)[0] != pytest.approx(records(golden)[0], rel=1e-5), (
            "the masks are those of then: compare all"
        )
        return
    for one, other in zip(records(old), records(new), strict=True):  # queries were not counted then
        assert one == pytest.approx({key: other[key] for key in one}, rel=1e-5)
        assert other.keys() - one.keys() <= {"cost/reward_queries"}
    for mine, theirs in zip(gone_on.validations, whole.validations, strict=True):  # clips told no statistics then
        for clip, twin in zip(mine.clips, theirs.clips, strict=True):
            assert (clip.prompt, clip.seed) == (twin.prompt, twin.seed)
            assert clip.scores == pytest.approx(twin.scores, rel=1e-5)
    last = torch.load(new / "checkpoints" / "step-000006" / "optimizer.pt")
    near = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-6)
    near(adapter(old / "adapter"), adapter(new / "adapter"))
    near(states[1]["average"], last["average"])
    near(adapter(golden / "checkpoints/step-000004/adapter"), adapter(new / "checkpoints/step-000004/adapter"))


def test_what_an_earlier_version_saved_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no step left, the adapter that is kept is the moving average that was saved."""
    made = tiny("run", train={"ema_decay": 0.9, "steps": 4, "schedule": "cosine"}, validation={"clips": 0})
    made["backbone"]["name"], made["rewards"][0]["name"] = "./fakes.py:FakeBackbone", "./fakes.py:Brightness"
    shutil.copy(FAKES, tmp_path)
    shutil.copytree(ROOT / "tests" / "golden" / "run_folder_a", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    vader.train(made, resume=True)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "step-000004" / "optimizer.pt")["average"]["average"]
    kept = list(adapter(tmp_path / "run" / "adapter").values())
    assert sorted(float(tensor.double().sum()) for tensor in saved) == sorted(float(one.double().sum()) for one in kept)
