"""A dry run says of a folder that holds a run what the run itself would say, and changes nothing in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from tests.integration.harness import command, tiny

import vader


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dry") / "run"
    vader.train(tiny(output, train={"steps": 2, "warmup_steps": 0, "schedule": "cosine"}))
    return output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size if path.is_file() else 0)
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps=2", "It goes on after optimizer step 2."),
        ("train.seed=7", "train.seed: 0 then, 7 now"),
        ("sampler.steps=4", "sampler.steps: 3 then, 4 now"),
        ("train.warmup_steps=1", "train.warmup_steps: 0 then, 1 now"),
        ("train.schedule=constant", "train.schedule: 'cosine' then, 'constant' now"),
        ("train.steps=5", "the learning rate goes from"),
        ("validation.seed=9", "validations made until now do not compare with those to come"),
    ],
)
def test_of_a_changed_spec(
    run: Path, override: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    code, out, _ = command(monkeypatch, capsys, "train", run, "--resume", "--dry-run", "--set", override)
    assert code == 0
    assert said in out
    assert "takes --resume" not in out
    assert contents(run) == before


def test_of_checkpoints_that_are_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    code, out, _ = command(monkeypatch, capsys, "train", run, "--resume", "--dry-run")
    assert code == 0
    assert "holds a run that cannot be resumed" in out


@pytest.mark.skipif(os.name != "posix", reason="folders have no locks elsewhere")
def test_of_a_run_that_is_in_use_or_in_the_way(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tiny(run, train={"steps": 2, "warmup_steps": 0})))
    _, out, _ = command(monkeypatch, capsys, "train", tmp_path / "run.yaml", "--dry-run")
    assert "already holds a run. Resume it with --resume" in out
    with (run / ".vader-run").open("rb+") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        _, out, _ = command(monkeypatch, capsys, "train", run, "--resume", "--dry-run")
    assert "another run is writing to" in out
    _, out, _ = command(monkeypatch, capsys, "train", run, "--resume", "--dry-run")
    assert "It goes on after optimizer step 2." in out, "the lock of a dry run is let go"
