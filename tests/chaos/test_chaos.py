"""Whatever happens to a run, it ends as if nothing had, or says why it cannot; and no file of the user's changes."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.rounds import KINDS
from tests.integration.harness import assert_same_adapter, assert_same_run, python, validation_file

ROUNDS = int(os.environ.get("VADER_CHAOS_ROUNDS", "6"))
SEED = int(os.environ.get("VADER_CHAOS_SEED", "20260101"))


@dataclass(frozen=True)
class Played:
    """What one process that forks has done to runs in its folder."""

    folder: Path
    rounds: list[dict[str, Any]]
    deaths: dict[str, Any]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("chaos")
    done = python(["-m", "tests.chaos", str(folder), str(SEED), str(ROUNDS)], seconds=30 * ROUNDS + 600, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return Played(folder, **json.loads((folder / "report.json").read_text()))


def validations(run: Path) -> dict[str, Any]:
    return {path.parent.name: validation_file(path) for path in run.glob("samples/*/validation.json")}


def test_every_kind_of_mishap_was_there(played: Played) -> None:
    assert Counter(one["kind"] for one in played.rounds) == Counter(KINDS[n % len(KINDS)] for n in range(ROUNDS))


def test_a_run_ends_bit_equal_or_says_why_not(played: Played) -> None:
    for one in played.rounds:
        run = Path(one["run"])
        whole = played.folder / ("whole-of-two" if one["kind"] == "launcher" else "whole")
        if one["code"] == 0:
            assert_same_adapter(run / "adapter", whole / "adapter")
            if one["kind"] != "bit":  # which may have hit a line of the metrics, or an earlier validation
                assert_same_run(run, whole)
                assert one["steps"] == list(range(1, len(one["steps"]) + 1)), one
                assert validations(run) == validations(whole), one
        else:
            assert one["kind"] == "bit", one
            assert 40 < len(one["refusal"]) < 900, one
        assert one["left"] == [str(run / ".x.partial.docx")] * len(one["left"]), one


def test_no_file_of_the_users_changed(played: Played) -> None:
    for one in played.rounds:
        assert one["lost"] == [], one
        assert one["beside"] == ["beside.txt"], one
        assert (Path(one["run"]).parent / "beside.txt").read_text() == "mine"


def test_a_death_before_every_change_of_the_disk(played: Played) -> None:
    """While a run opens its folder and writes its first checkpoint; and while a finished run ends again."""
    found = played.deaths
    assert found["opening"] >= 50, "the runner has lost sight of the writes"
    assert found["ending"] >= 30
    assert found["begun"] == len(range(0, found["opening"], found["every"]))
    assert found["ended"] >= 0.8 * found["ending"] / found["every"], "what is mended changes the number of calls"
    assert found["left"] == []
    assert_same_run(played.folder / "dying", played.folder / "undying")
