"""What mypy says of a third party's code, strictly; ``nox -s pyright`` asks another checker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vader

ROOT = Path(__file__).parents[2]
PLUGIN, WRONG = (ROOT / "tests" / "typed" / name for name in ("every_protocol.py", "wrong.py"))


def test_a_plugin_with_every_protocol_is_clean_and_what_is_wrong_is_found() -> None:
    """vader is followed as an installed package is."""
    env = {**os.environ, "MYPYPATH": str(Path(vader.__file__).parents[1])}
    options = ["--strict", "--follow-imports=silent", "--config-file=", "--no-error-summary", "--no-pretty"]
    command = [sys.executable, "-m", "mypy", *options, str(PLUGIN), str(WRONG)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.stderr == ""
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line for line in errors if WRONG.name not in line] == []
    found = {int(line.split(f"{WRONG.name}:")[1].split(":")[0]) for line in errors}
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    assert found == {number for number, line in enumerate(lines, 1) if "# wrong" in line}
