"""The benchmark for CUDA machines, at toy size on a CPU: every part runs and gives its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]


class Here:
    """What is needed of the process of a part, in this process: to import all again for each is slow."""

    returncode = 0

    def __init__(self, name: str, out: Path, dry: bool) -> None:
        self._said = json.dumps(PARTS[name](out, dry))

    def communicate(self, timeout: float) -> tuple[str, None]:
        return self._said, None


@pytest.mark.slow
def test_the_dry_run_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its part of tests, which finds no CUDA device, is a process of its own, as all are in earnest."""
    start = gpu.start

    def started(name: str, out: Path, dry: bool) -> Any:
        return start(name, out, dry) if name == "tests" else Here(name, out, dry)

    monkeypatch.setattr(gpu, "start", started)
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry", "--out", str(tmp_path)])
    monkeypatch.chdir(ROOT)
    gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "error" not in found["parts"]["tests"], (tmp_path / "tests.err").read_text()
    for size in ("1.3b", "14b"):
        rows = found["parts"][size]
        assert rows
        for name, row in rows.items():
            assert "error" not in row, (name, row)
            assert row["time/step"] > 0
    assert all(said.get("total", 0) > 0 for said in found["parts"]["estimates"].values()), found["parts"]["estimates"]
    assert "| 1.3b window 1, bf16 |" in (tmp_path / "gpu.md").read_text()
