"""The benchmark for CUDA machines, at toy size on a CPU: every part runs and gives its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.harness import environment

ROOT = Path(__file__).resolve().parents[2]


def test_the_dry_run_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    for size in ("1.3b", "14b"):
        rows = found["parts"][size]
        assert rows
        for name, row in rows.items():
            assert "error" not in row, (name, row)
            assert row["time/step"] > 0
    assert all(said.get("total", 0) > 0 for said in found["parts"]["estimates"].values()), found["parts"]["estimates"]
    assert "| 1.3b window 1, bf16 |" in (tmp_path / "gpu.md").read_text()
