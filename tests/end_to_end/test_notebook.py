"""The notebook in examples/: its cells run, and show what the kept ones do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from tests.notebook import executed

from vader.runs.events import ClipSize, RunResult, Validation, ValidationClip
from vader.runs.generation import Clips, Generated

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def shown(notebook: dict[str, Any]) -> list[dict[str, str]]:
    """What each code cell shows, by MIME type."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [cell["outputs"][0]["data"] if cell["outputs"] else {} for cell in cells]
    return [{kind: "".join(text) for kind, text in one.items()} for one in outputs]


def test_the_notebook_runs(tmp_path: Path) -> None:
    kept, now = shown(json.loads(NOTEBOOK.read_text(encoding="utf-8"))), shown(executed(NOTEBOOK, tmp_path))
    assert [one.keys() for one in now] == [one.keys() for one in kept], "python -m tests.notebook keeps what it shows"
    assert now[-1]["text/plain"] == kept[-1]["text/plain"] == "torch.Size([9, 3, 32, 32])"
    result, clips = now[1]["text/html"], now[2]["text/html"]
    assert re.findall(r"<th>(shapes_\w+)</th>", result) == ["shapes_alignment", "shapes_accuracy"]
    assert result.count('src="data:video/mp4;base64,') == 4
    assert clips.count('src="data:video/mp4;base64,') == 2
    for page in (result, clips):
        assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_clips_beyond_what_a_notebook_carries_are_counted() -> None:
    made = Clips(Generated("a <b>", seed, torch.zeros(1, 3, 8, 8), None) for seed in range(18))
    page = made._repr_html_()
    assert page.count("<video") == 16
    assert "and 2 more" in page
    assert "a &lt;b&gt; &middot; seed 0" in page


def test_a_result_without_clips(tmp_path: Path) -> None:
    clip = ValidationClip(0, "p", 1, {"s": 0.25}, "clip-000.mp4")
    done = Validation(4, (clip,), ClipSize(1, 8, 8, 8.0))
    page = RunResult(tmp_path / "<run>", 4, None, {"reward": 1.0}, (done,), adapter_step=4)._repr_html_()
    assert "<td>0.25</td>" in page
    assert "<video" not in page, "its file has gone"
    assert "&lt;run&gt;" in page
    assert "reward 1, never validated" in RunResult(tmp_path, 2, "SIGTERM", {"reward": 1.0})._repr_html_()
