"""Whatever happens to a run, it ends as if nothing had, or says why it cannot; and no file of the user's changes."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.integration.harness import assert_same_adapter, assert_same_run, python

ROUNDS = int(os.environ.get("VADER_CHAOS_ROUNDS", "20"))
SEED = int(os.environ.get("VADER_CHAOS_SEED", "20260101"))


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """All rounds, made by one process that forks; its folder and its report."""
    folder = tmp_path_factory.mktemp("chaos")
    done = python(["-m", "tests.chaos.rounds", str(folder), str(SEED), str(ROUNDS)], cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    report: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())
    return folder, report


def test_every_kind_of_mishap_was_there(rounds: tuple[Path, list[dict[str, Any]]]) -> None:
    kinds = Counter(one["kind"] for one in rounds[1])
    assert len(kinds) == 4
    assert min(kinds.values()) >= ROUNDS // 4


def test_a_run_ends_bit_equal_or_says_why_not(rounds: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, report = rounds
    for one in report:
        if one["code"] == 0:
            assert_same_adapter(Path(one["run"]) / "adapter", folder / "whole" / "adapter")
            if one["kind"] != "bit":  # which may have hit a line of the metrics
                assert_same_run(Path(one["run"]), folder / "whole")
                assert one["steps"] == list(range(1, len(one["steps"]) + 1)), one
        else:
            assert one["kind"] == "bit", one
            assert one["refusal"], one
        assert one["left"] == [str(Path(one["run"]) / ".x.partial.docx")] * len(one["left"]), one


def test_no_file_of_the_users_changed(rounds: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [one for one in rounds[1] if one["lost"]] == []
