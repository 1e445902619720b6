"""No input gives a traceback, takes long, or touches what is not the run's: 75 in CI, 500 in ``nox -s chaos``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.bad_inputs import KINDS
from tests.chaos.test_chaos import ROUNDS, SEED
from tests.integration.harness import python

COUNT = max(75, 5 * ROUNDS // 2)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of each input, all given by one process that forks."""
    folder = tmp_path_factory.mktemp("bad")
    done = python(["-m", "tests.chaos.bad_inputs", str(folder), str(SEED), str(COUNT)], seconds=10 * COUNT, cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    report: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())
    return report


def test_every_kind_of_input_was_there(cases: list[dict[str, Any]]) -> None:
    kinds = Counter(case["kind"] for case in cases)
    assert kinds.keys() == set(KINDS)
    refused = Counter(case["kind"] for case in cases if case["code"])
    assert all(refused[kind] for kind in KINDS), "what is generated is not bad"
    assert sum(refused.values()) > len(cases) / 2


def test_every_refusal_is_one_short_error(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        said = case["out"] + case["err"]
        assert case["code"] in (0, 2), case
        assert case["raised"] == "", case
        assert "not a known mistake" not in said, case
        assert "Traceback" not in said, case
        assert "Warning: " not in said, case
        assert said.count("error: ") == (case["code"] == 2), case
        assert len(said) < 8000, case


def test_none_is_refused_late(cases: list[dict[str, Any]]) -> None:
    """In seconds of CPU, which do not count what else the machine does. A sound input is done, and may take longer."""
    slowest = max((case for case in cases if case["code"]), key=lambda case: case["seconds"])
    assert slowest["seconds"] < 5, slowest


def test_nothing_is_touched_but_the_output(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert (case["changed"], case["touched"]) == ([], []), case
        assert (Path(case["folder"]) / "mine.txt").read_text() == "mine"
