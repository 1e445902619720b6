"""Nothing of a user's is lost: only a run's own names are written or removed, only in a folder that is a run's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import (
    ADAPTER_FILE,
    BRIGHTNESS,
    At,
    Crash,
    Notices,
    assert_same_adapter,
    assert_same_run,
    crash,
    flip,
    left_behind,
    merged,
    records,
    tiny,
    truncate,
    validation_file,
)

import vader
from vader.runs import checkpoint, early_stop, metrics_file
from vader.runs.events import ValidationClip
from vader.runs.folder import RunFolder
from vader.runs.lock import MARK, RunLock
from vader.weights import sealed
from vader.weights.tensor_file import save_tensors

STEPS = 6
VALIDATED: dict[str, Any] = {"train": {"validate_every": 2}, "validation": {"clips": 2, "save_clips": 1}}
PEAK = str(Path(__file__).with_name("test_methods.py")) + ":Peak"
BEST: dict[str, Any] = {
    "train": {"validate_every": 2, "early_stop": {"score": "held", "patience": 9}},
    "validation": {"clips": 2, "batch_size": 2, "save_clips": 0, "rewards": [{"name": PEAK, "label": "held"}]},
}
"""The held-out score is highest after optimizer step 4."""


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    vader.train(tiny(folder, **VALIDATED))
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crashed after optimizer step 5; checkpoints of 2 and 4."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Crash):
        vader.train(tiny(folder, **VALIDATED), listeners=[At(5, crash)])
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def resume(folder: Path, **changes: Any) -> tuple[vader.RunResult, Notices]:
    notices = Notices()
    return vader.train(tiny(folder, **(changes or VALIDATED)), resume=True, listeners=[notices]), notices


# -- a folder that is somebody else's


def with_files(*names: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"mine: {name}")

    return fill


def other_runs(folder: Path) -> None:
    with pytest.raises(Crash):
        vader.train(tiny(folder / "first"), listeners=[At(3, crash)])
    (folder / "first" / "checkpoints" / ".step-000003.partial").mkdir()


NOTES = ("adapter/my_lora.safetensors", "metrics.jsonl", "notes/.x.partial.docx")
FOREIGN: dict[str, Callable[[Path], None]] = {
    "an adapter, metrics and notes": with_files(
        "adapter/my_lora.safetensors", "metrics.jsonl", "notes/.x.partial.docx"
    ),
    "other runs": other_runs,
    "a hidden file": with_files(".bashrc"),
    "a project with a spec of its own": with_files("spec.yaml", "environment.json", "src/main.py"),
    "checkpoints of another program": with_files("checkpoints/step-000100/model.pt"),
    "samples of another program": with_files("samples/step-000000/clip-000.mp4"),
    "folders alone": lambda folder: (folder / "photos").mkdir(parents=True),
}


@pytest.mark.parametrize("resuming", [False, True])
@pytest.mark.parametrize("fill", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_folder_that_is_not_a_runs_is_refused_untouched(
    tmp_path: Path, fill: Callable[[Path], None], resuming: bool
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    fill(folder)
    before = contents(folder)
    with pytest.raises(vader.RunFolderError, match=r"output: .*files that are not a run's.*new or an empty folder"):
        vader.train(tiny(folder), resume=resuming)
    assert contents(folder) == before


MINE = (
    "notes/.x.partial.docx",
    ".mine.partial",
    "adapter/README.md",
    "adapter/photos/cat.jpg",
    "checkpoints/step-000002/why.txt",
    "checkpoints/step-best/model.pt",
    "checkpoints/.mine.partial",
    "samples/step-final/clip.mp4",
    "samples/step-000000/.edit.partial.mp4",
    "samples/notes.txt",
    "code/.draft.py.partial",
)
"""What a user may put into a run's folder."""


def test_what_a_user_put_into_a_run_stays(copy: Path, unbroken: Path) -> None:
    with_files(*MINE)(copy)
    keep_one = {**VALIDATED, "train": {**VALIDATED["train"], "keep_checkpoints": 1}}
    resume(copy, **keep_one)
    resume(copy, **keep_one)  # writes adapter/ a second time
    assert {name: (copy / name).read_text() for name in MINE} == {name: f"mine: {name}" for name in MINE}
    assert_same_adapter(copy / "adapter", unbroken / "adapter")


def test_what_was_ours_and_is_in_the_way_is_moved_not_removed(copy: Path, unbroken: Path) -> None:
    shutil.rmtree(copy / "checkpoints" / "step-000004")
    (copy / "checkpoints" / "step-000004").write_text("a file of mine")
    resume(copy)
    assert (copy / "checkpoints" / "step-000004.aside").read_text() == "a file of mine"
    assert_same_run(copy, unbroken)


# -- a run that does not begin


def broken(**changes: Any) -> dict[str, Any]:
    """Fails while it loads."""
    return {"backbone": {"adapter": {"target_modules": ["nothing_is_called_that"]}}, **changes}


@pytest.mark.parametrize("existing", [False, True])
def test_nothing_is_made_before_weights_are_loaded(tmp_path: Path, existing: bool) -> None:
    folder = tmp_path / "some" / "where"
    if existing:
        folder.mkdir(parents=True)
    before = contents(tmp_path)
    with pytest.raises(vader.VaderError):
        vader.train(tiny(folder, **broken()))
    assert contents(tmp_path) == before
    vader.train(tiny(folder, train={"steps": 1, "warmup_steps": 0}))


def unloadable(*_: Any) -> None:
    raise vader.WeightsError("no")


def test_a_resumption_that_does_not_load_changes_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(
            "vader.resolve.build.assemble_backbone", lambda *_: (_ for _ in ()).throw(vader.WeightsError("no"))
        )
        with pytest.raises(vader.WeightsError):
            resume(copy)
    assert contents(copy) == before


class FailsAtFirst:
    """Raises before the first optimizer step."""

    @vader.hookimpl
    def vader_run_started(self) -> None:
        raise Crash


def test_a_run_that_fails_before_its_first_step_does_not_block_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Crash):
        vader.train(tiny(folder, **VALIDATED), listeners=[FailsAtFirst()])
    fresh = vader.train(tiny(folder, **VALIDATED, sampler={"steps": 2}))  # no resume, and another spec
    assert (fresh.step, fresh.validations[0].step) == (STEPS, 0)


def test_a_run_that_fails_in_its_first_validation_leaves_nothing_that_counts(tmp_path: Path) -> None:
    class Late:
        @vader.hookimpl
        def vader_validation_finished(self) -> None:
            raise Crash

    with pytest.raises(Crash):
        vader.train(tiny(tmp_path / "run", **VALIDATED), listeners=[Late()])
    other = {**VALIDATED, "train": {**VALIDATED["train"], "seed": 5}}
    again, whole = (vader.train(tiny(tmp_path / name, **other)) for name in ("run", "whole"))
    assert_same_run(again.folder, whole.folder)
    assert again.validations == whole.validations


# -- what cannot be read is not damaged


def denied(path: Path) -> Callable[[Path], str]:
    real = sealed.sha256

    def read(file: Path) -> str:
        if path in file.parents:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file)

    return read


@pytest.mark.parametrize("step", ["step-000004", "step-000002"])
def test_an_unreadable_checkpoint_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    before = contents(copy)
    if step == "step-000002":
        flip(copy / "checkpoints" / "step-000004" / "optimizer.pt")
        before = contents(copy)
    with monkeypatch.context() as patch:
        patch.setattr(sealed, "sha256", denied(copy / "checkpoints" / step))
        with pytest.raises(vader.RunFolderError, match=rf"{step}.*cannot be read: Permission denied.*resume the run"):
            resume(copy)
    assert contents(copy) == before


@pytest.mark.parametrize("number", [5, 13, 116], ids=os.strerror)
def test_a_folder_of_checkpoints_that_cannot_be_listed_is_an_error(
    copy: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.scandir

    def listing(path: Any) -> Any:
        if Path(path).name == "checkpoints":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listing)
        with pytest.raises(vader.RunFolderError, match=os.strerror(number)):
            resume(copy)
    assert [line["step"] for line in records(copy)] == [1, 2, 3, 4, 5]


GONE: dict[str, Callable[[Path], object]] = {
    "moved away": lambda folder: (folder / "checkpoints").rename(folder.parent / "elsewhere"),
    "an empty mount point": lambda folder: (shutil.rmtree(folder / "checkpoints"), (folder / "checkpoints").mkdir()),
    "a link to nothing": lambda folder: (
        (folder / "checkpoints").rename(folder.parent / "away"),
        (folder / "checkpoints").symlink_to(folder.parent / "gone"),
    ),
    "the mark is gone too": lambda folder: (shutil.rmtree(folder / "checkpoints"), (folder / MARK).unlink()),
    "the metrics are gone too": lambda folder: (
        shutil.rmtree(folder / "checkpoints"),
        (folder / "metrics.jsonl").unlink(),
    ),
}


@pytest.mark.parametrize("lose", GONE.values(), ids=GONE.keys())
def test_checkpoints_that_are_gone_stop_the_run(copy: Path, lose: Callable[[Path], object]) -> None:
    lose(copy)
    before = contents(copy)
    with pytest.raises(vader.CheckpointError, match=r"cannot be resumed.*\n?.*not mounted.*another\s+folder"):
        resume(copy)
    assert contents(copy) == before


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(tmp_path: Path, unbroken: Path) -> None:
    with pytest.raises(Crash):
        vader.train(tiny(tmp_path / "run", **VALIDATED), listeners=[At(1, crash)])
    _, notices = resume(tmp_path / "run")
    assert "before its first checkpoint" in str(notices)
    assert_same_run(tmp_path / "run", unbroken)


# -- metrics


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def write_lines(folder: Path, made: list[str]) -> None:
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in made))


BAD_LINES: dict[str, Callable[[list[str]], list[str]]] = {
    "a flipped bit in the first": lambda made: [made[0].replace('"step"', '"stdp"'), *made[1:]],
    "a blank first": lambda made: ["", *made],
    "the first is gone": lambda made: ["", *made[1:]],
    "a wrong step in the first": lambda made: [made[0].replace('"step": 1', '"step": 9'), *made[1:]],
    "a wrong step in the fourth": lambda made: [*made[:3], made[3].replace('"step": 4', '"step": 1'), *made[4:]],
    "a step too large in the second": lambda made: [made[0], made[1].replace('"step": 2', '"step": 4'), *made[2:]],
    "garbage in between": lambda made: [made[0], "\x00\x00", '{"step": tr', "[1]", *made[1:]],
    "deep nesting": lambda made: ["[" * 100_000, *made],
}


@pytest.mark.parametrize("damage", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_set_aside_and_costs_no_other(
    copy: Path, unbroken: Path, damage: Callable[[list[str]], list[str]]
) -> None:
    made = lines(copy)
    write_lines(copy, damage(made))
    _, notices = resume(copy)
    assert "could not be read" in str(notices)
    there = {line["step"]: line for line in records(copy)}
    whole = {line["step"]: line for line in records(unbroken)}
    untouched = {json.loads(line)["step"] for line in set(damage(made)) & set(made)} | {5, 6}
    assert set(there) >= untouched
    assert all(there[step] == whole[step] for step in untouched)
    assert [line["step"] for line in records(copy)] == sorted(there)


def test_lines_that_are_made_again_are_kept_aside(copy: Path) -> None:
    fifth = lines(copy)[4]
    resume(copy)
    assert (copy / metrics_file.ASIDE).read_text() == f"{fifth}\n"


def test_metrics_are_on_disk_before_the_checkpoint_that_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, save = metrics_file.flush, checkpoint.save

    def flushed(path: Path) -> None:
        done.append(f"{len(lines(path.parent))} lines")
        flush(path)

    def saved(folder: Path, step: int, **rest: Any) -> Path:
        done.append(f"step {step}")
        return save(folder, step, **rest)

    monkeypatch.setattr(metrics_file, "flush", flushed)
    monkeypatch.setattr(checkpoint, "save", saved)
    vader.train(tiny(tmp_path / "run"))
    assert done == ["2 lines", "step 2", "4 lines", "step 4", "6 lines", "step 6"]


# -- what can be remade is remade

TORN: dict[str, Callable[[Path], object]] = {
    "validation truncated": lambda run: truncate(run / "samples/step-000004/validation.json"),
    "validation flipped": lambda run: flip(run / "samples/step-000004/validation.json"),
    "validation without clips": lambda run: (run / "samples/step-000004/validation.json").write_text('{"step": 4}'),
    "first validation truncated": lambda run: truncate(run / "samples/step-000000/validation.json"),
    "all validations empty": lambda run: [path.write_text("") for path in run.glob("samples/*/validation.json")],
    "a folder step-final": lambda run: (run / "samples/step-final").mkdir(),
    "a validation in step-final": lambda run: shutil.copytree(run / "samples/step-000002", run / "samples/step-final"),
    "a file for a folder": lambda run: (run / "samples/step-000006").write_text("in the way"),
    "samples gone": lambda run: shutil.rmtree(run / "samples"),
    "a checkpoint under another name": lambda run: (run / "checkpoints/step-000004").rename(
        run / "checkpoints/step-000005"
    ),
}


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN.keys())
def test_a_run_ends_whatever_becomes_of_its_samples(copy: Path, unbroken: Path, tear: Callable[[Path], object]) -> None:
    tear(copy)
    result, _ = resume(copy)
    assert result.step == STEPS
    assert result.validations[-1].step == STEPS
    assert_same_run(copy, unbroken)
    vader.evaluate(copy)


def test_a_damaged_validation_of_the_step_gone_on_from_is_made_again(copy: Path, unbroken: Path) -> None:
    truncate(copy / "samples/step-000004/validation.json")
    resume(copy)
    name = "samples/step-000004/validation.json"
    assert validation_file(copy / name) == validation_file(unbroken / name)


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose best validation is not its last."""
    folder = tmp_path_factory.mktemp("best") / "run"
    result = vader.train(tiny(folder, **BEST))
    assert (result.adapter_step, result.step) == (4, 6)
    return folder


def restamp(folder: Path, step: int) -> None:
    (folder / sealed.MANIFEST).unlink()
    sealed.seal(folder, {"step": step})


LOST_BEST: dict[str, Callable[[Path], object]] = {
    "untouched": lambda run: None,
    "a kill between the renames": lambda run: (run / "best").rename(run / ".best.old"),
    "a kill before the last removal": lambda run: shutil.copytree(run / "best", run / ".best.old"),
    "gone": lambda run: shutil.rmtree(run / "best"),
    "flipped": lambda run: flip(run / "best" / ADAPTER_FILE, 0.9),
    "of another step": lambda run: restamp(run / "best", 1),
    "a file": lambda run: (shutil.rmtree(run / "best"), (run / "best").write_text("x")),
}


@pytest.mark.parametrize("lose", LOST_BEST.values(), ids=LOST_BEST.keys())
@pytest.mark.parametrize("average", [None, 0.9])
def test_the_best_adapter_is_made_again_from_its_checkpoint(
    best: Path, tmp_path: Path, lose: Callable[[Path], object], average: float | None
) -> None:
    made = tiny(tmp_path / "run", **merged(BEST, {"train": {"ema_decay": average}}))
    if average is None:
        shutil.copytree(best, tmp_path / "run")
    else:
        vader.train(made)
    run = tmp_path / "run"
    (run / "adapter").rename(tmp_path / "before")
    lose(run)
    result = vader.train(made, resume=True)
    assert result.adapter_step == 4
    assert_same_adapter(run / "adapter", tmp_path / "before")
    assert sealed.read(run / "adapter")["step"] == 4
    assert left_behind(run) == []


def test_the_final_adapter_depends_on_nothing_else(best: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(best, tmp_path / "run"))
    for lost in ("adapter", "best", "checkpoints/step-000004"):
        shutil.rmtree(run / lost)
    notices = Notices()
    result = vader.train(tiny(run, **BEST), resume=True, listeners=[notices])
    assert result.adapter_step == 6
    assert "of optimizer step 4, where held was highest, is lost or damaged" in str(notices)
    assert_same_adapter(run / "adapter", run / "checkpoints/step-000006/adapter")


# -- two at once


def test_a_second_run_in_the_folder_is_refused_and_a_death_frees_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    seen: list[BaseException] = []

    class Second:
        @vader.hookimpl
        def vader_step_finished(self, step: int) -> None:
            other = RunLock(folder, seen.append)  # type: ignore[arg-type]
            with pytest.raises(vader.RunFolderError, match="another run is writing to") as error:
                other.take(create=True)
            seen.append(error.value)

    vader.train(tiny(folder, train={"steps": 2, "warmup_steps": 0}), listeners=[Second()])
    assert len(seen) == 2
    free = RunLock(folder, pytest.fail)
    free.take(create=False)
    free.release()


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    notices = Notices()
    vader.train(tiny(tmp_path / "run", train={"steps": 1, "warmup_steps": 0}), listeners=[notices])
    assert "has no locks (No locks available)" in str(notices)


# -- which checkpoints are kept


def kept(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((folder / "checkpoints").iterdir())]


@pytest.mark.parametrize(
    ("keep", "steps"), [(1, [6]), (2, [5, 6]), (9, [1, 2, 3, 4, 5, 6]), (None, [1, 2, 3, 4, 5, 6])]
)
def test_the_newest_checkpoints_are_kept(tmp_path: Path, keep: int | None, steps: list[int]) -> None:
    vader.train(tiny(tmp_path / "run", train={"checkpoint_every": 1, "keep_checkpoints": keep}))
    assert kept(tmp_path / "run") == steps


def test_the_best_validations_checkpoint_is_kept_too(tmp_path: Path) -> None:
    vader.train(tiny(tmp_path / "run", **merged(BEST, {"train": {"checkpoint_every": 1, "keep_checkpoints": 1}})))
    assert kept(tmp_path / "run") == [4, 6]


@pytest.mark.parametrize(("target", "step"), [(None, 4), (0.25, 2), (0.0, 0)])
def test_without_early_stop_the_best_is_best_at_what_the_run_trains_for(target: float | None, step: int) -> None:
    reward = {"name": BRIGHTNESS, "label": "a", "weight": 2.0, "target": target}
    spec = vader.RunSpec.model_validate({**tiny("run"), "rewards": [reward]})
    scores = {0: 0.0, 2: 0.2, 4: 0.5, 6: 0.4}
    made = [
        vader.Validation(at, (ValidationClip(0, "p", 0, {"a": score, "held": 9.0 - score}),))
        for at, score in scores.items()
    ]
    assert early_stop.best_of_run(spec, made).step == step


def test_a_sound_checkpoint_is_not_removed_for_a_damaged_newer_one(copy: Path) -> None:
    flip(copy / "checkpoints" / "step-000004" / "optimizer.pt")
    changes = {**VALIDATED, "train": {**VALIDATED["train"], "keep_checkpoints": 1, "checkpoint_every": 1}}
    with pytest.raises(Crash):
        vader.train(tiny(copy, **changes), resume=True, listeners=[At(4, crash)])
    assert checkpoint.newest(copy / "checkpoints", lambda _: None).step == 3  # type: ignore[union-attr]


def test_a_run_resumes_bit_equal_with_few_checkpoints(copy: Path, unbroken: Path) -> None:
    resume(copy, **{**VALIDATED, "train": {**VALIDATED["train"], "keep_checkpoints": 1}})
    assert kept(copy) == [4, 6], "the best validation is that of step 4"
    assert_same_run(copy, unbroken)


# -- digests of what is kept


@pytest.mark.parametrize("file", [ADAPTER_FILE, "adapter_config.json"])
@pytest.mark.parametrize("how", ["the run", "its adapter", "a file", "init", "a checkpoint's adapter"])
def test_flipped_bits_in_an_adapter_are_noticed(unbroken: Path, tmp_path: Path, file: str, how: str) -> None:
    run = Path(shutil.copytree(unbroken, tmp_path / "run"))
    folder = run / ("checkpoints/step-000004/adapter" if how == "a checkpoint's adapter" else "adapter")
    flip(folder / file, 0.9)
    load: dict[str, Callable[[], object]] = {
        "the run": lambda: vader.generate(run, ["a red circle"]),
        "init": lambda: vader.train(tiny(tmp_path / "other", backbone={"adapter": {"init": str(folder)}})),
        "a file": lambda: vader.generate(run, ["a red circle"], adapter=folder / ADAPTER_FILE),
    }
    with pytest.raises(vader.VaderError, match=rf"{file}.*is damaged: its SHA-256"):
        load.get(how, lambda: vader.generate(run, ["a red circle"], adapter=folder))()


def test_an_adapter_with_another_programs_manifest_is_read(unbroken: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(unbroken / "adapter", tmp_path / "adapter"))
    for text in ("[]", '{"name": "app", "files": ["x"]}', "not json", ""):
        (folder / sealed.MANIFEST).write_text(text)
        vader.generate(unbroken, ["a red circle"], adapter=folder)


def test_equal_tensors_give_equal_bytes(unbroken: Path, copy: Path) -> None:
    resume(copy)
    for part in ("adapter", "checkpoints/step-000006/adapter", "checkpoints/step-000004/adapter"):
        for path in sorted((unbroken / part).iterdir()):
            assert path.read_bytes() == (copy / part / path.name).read_bytes(), path


def test_a_tensor_file_is_the_librarys_format(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    state = {
        "b": torch.arange(3.0),
        "a": torch.tensor(2.0, dtype=torch.bfloat16),
        "c": torch.ones(2, 0),
        "d": torch.eye(3).T,
    }
    save_tensors(state, tmp_path / "x.safetensors", {"z": "1", "format": "pt"})
    save_tensors(dict(reversed(state.items())), tmp_path / "y.safetensors", {"format": "pt", "z": "1"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) and read[name].dtype == state[name].dtype for name in state)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata() == {"z": "1", "format": "pt"}


# -- the moving average of an interrupted run

AVERAGED: dict[str, Any] = {
    "train": {"ema_decay": 0.9, "validate_every": 4, "learning_rate": 0.1},
    "validation": {"clips": 2, "save_clips": 0},
    "sampler": {"guidance_scale": 1.0},
}


def test_an_interrupted_run_is_judged_by_its_average(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Crash):
        vader.train(tiny(run, **AVERAGED), listeners=[At(5, crash)])
    validated = RunFolder(run).read_validation(4)
    assert validated is not None
    judged = vader.evaluate(run).adapted
    assert judged is not None
    assert [clip.scores for clip in judged.clips] == [clip.scores for clip in validated.validation.clips]
    raw = vader.evaluate(run, adapter=run / "checkpoints/step-000004/adapter").adapted
    assert raw is not None
    assert [clip.scores for clip in raw.clips] != [clip.scores for clip in judged.clips]


def test_generate_takes_the_average_of_an_older_folder_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    vader.train(tiny(run, **AVERAGED, **{}))
    whole = vader.generate(run, ["a red circle"])[0].frames
    shutil.rmtree(run / "adapter")
    (run / MARK).unlink()
    assert torch.equal(vader.generate(run, ["a red circle"])[0].frames, whole)
