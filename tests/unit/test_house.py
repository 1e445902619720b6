"""The house stays one of small rooms."""

from __future__ import annotations

import statistics
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST, USUAL, AT_THE_TOP = 350, 120, 8


def lengths() -> dict[str, int]:
    """Lines of every module of the distributions and the benchmarks."""
    files = [
        *ROOT.glob("vader_core/src/**/*.py"),
        *ROOT.glob("plugins/*/src/**/*.py"),
        *ROOT.glob("benchmarks/**/*.py"),
    ]
    return {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


def test_no_room_is_long_and_most_are_short() -> None:
    found = lengths()
    assert {name: lines for name, lines in found.items() if lines > LONGEST} == {}
    assert statistics.median(found.values()) <= USUAL


def test_few_modules_lie_at_the_top() -> None:
    assert len(list((ROOT / "vader_core" / "src" / "vader").glob("*.py"))) <= AT_THE_TOP
