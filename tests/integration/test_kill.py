"""``kill -9`` at any moment leaves a folder that resumes, and the run ends as if nothing had happened."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import assert_same_run, python, records

SEED = 20260101


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One process that forks, kills and counts; its folder and its report."""
    folder = tmp_path_factory.mktemp("kill")
    done = python(["-m", "tests.integration.crash_runner", str(folder), str(SEED)], cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return folder, report


def validations(run: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in run.glob("samples/*/validation.json")}


def test_twenty_kills_at_random_moments(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, report = killed
    found = report["random"]
    assert found["kills"] == 20
    assert found["inside"] >= 10, "the runner has lost sight of the writing of checkpoints"
    assert found["advanced"] >= 10, "the kills came so early that nothing was resumed"
    assert found["left"] == []
    assert len(records(folder / "killed")) == 70
    assert_same_run(folder / "killed", folder / "unbroken")
    assert validations(folder / "killed") == validations(folder / "unbroken")
    assert set(validations(folder / "killed")) == {f"step-{step:06d}" for step in (0, 35, 70)}


def test_a_death_before_and_after_every_write(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, report = killed
    found = report["points"]
    kinds = Counter(found["calls"])
    assert kinds["save"] == 2, "one a checkpoint"
    assert kinds["fsync"] >= 6
    assert kinds["replace"] >= 6
    assert found["begun"] >= 24, "too few deaths: the runner has lost sight of the writes"
    assert found["ended"] >= 10
    assert found["left"] == []
    assert_same_run(folder / "points", folder / "whole")
