"""The figures of docs/how-to/memory.md are those that ``vader estimate`` gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vader.cli.estimate import _bytes, _size
from vader.estimation import estimate

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| `([\w]+)` \| ([\d.]+ [GM]B) \| ([\w ]+) \| ([\w ]+) \| (yes|no) \|")
ROWS = ROW.findall((ROOT / "docs" / "how-to" / "memory.md").read_text(encoding="utf-8"))

ALWAYS = ("modelscope_hps", "quickstart")
"""The others are of the same kind and take long."""


def test_there_are_rows() -> None:
    named = {name for name, *_ in ROWS}
    assert named == {path.stem for path in (ROOT / "examples").glob("*_train_*.yaml")} | {
        "modelscope_aesthetic", "modelscope_hps", "quickstart"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "total", "stretch", "phase", "fits"),
    [pytest.param(*row, marks=[] if row[0] in ALWAYS else [pytest.mark.slow]) for row in ROWS],
)
def test_a_recipe(name: str, total: str, stretch: str, phase: str, fits: str) -> None:
    found = estimate(ROOT / "examples" / f"{name}.yaml")
    assert found.not_counted == {}
    assert _size(found.total) == total
    assert stretch == ("validation" if found.decisive is found.validation else "optimizer step")
    assert found.decisive.peak.phase == phase
    assert (found.total <= _bytes("16GB")) == (fits == "yes")
