"""Several runs on one page: differences with intervals where clips are the same, curves, clips, specs."""

from __future__ import annotations

import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.harness import command

from vader.diffusion.frames import write_clip
from vader.errors import RunFolderError
from vader.report import write_comparison
from vader.report.contest import contestants, cost_table, same_clips, spec_differences, standings
from vader.spec import RunSpec

ONE = [0.20, 0.35, 0.30, 0.41, 0.26, 0.33, 0.52, 0.28]
TWO = [0.40, 0.45, 0.55, 0.51, 0.66, 0.43, 0.62, 0.38]
T_7 = 2.36462425  # Student's t, 0.975, 7 degrees of freedom


def make_run(folder: Path, scores: dict[str, list[float]], *, seed: int = 7, clips: int = 0, **train: Any) -> Path:
    spec = {
        "backbone": "tiny",
        "prompts": "list",
        "rewards": [{"name": "green"}],
        "train": {"steps": 2, **train},
        "validation": {"rewards": ["form"]},
        "output": str(folder),
    }
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(RunSpec.model_validate(spec).to_yaml())
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "reward": s / 2}) + "\n" for s in (1, 2)))
    for step in (0, 2):
        samples = folder / "samples" / f"step-{step:06d}"
        samples.mkdir(parents=True)
        rows = []
        for index in range(len(next(iter(scores.values())))):
            file = f"clip-{index:03d}.mp4" if index < clips else None
            if file:
                write_clip(samples / file, torch.rand(3, 3, 16, 16), 8)
            values = {key: value[index] for key, value in scores.items()} if step else {"green": 0.0, "form": 0.0}
            rows.append({"index": index, "prompt": "a <b>", "seed": seed + index, "scores": values, "file": file})
        (samples / "validation.json").write_text(json.dumps({"step": step, "clips": rows}))
    return folder


def test_differences_are_paired_where_prompts_and_seeds_are_equal(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"green": ONE, "form": TWO})
    two = make_run(tmp_path / "two", {"green": TWO, "form": ONE})
    other = make_run(tmp_path / "other", {"green": TWO, "form": ONE}, seed=100)
    rows = {(row.score, row.contestant.name): row for row in standings(contestants([one, two, other]))}
    assert len(rows) == 6
    row = rows["green", "two"]
    differences = [b - a for a, b in zip(ONE, TWO, strict=True)]
    half = T_7 * statistics.stdev(differences) / math.sqrt(8)
    assert row.against is not None
    assert row.against.interval is not None
    assert row.against.difference == pytest.approx(statistics.mean(differences))
    assert row.against.interval.low == pytest.approx(statistics.mean(differences) - half)
    assert (row.progress, row.role) == (1, "trained")
    assert (rows["form", "two"].progress, rows["form", "two"].role) == (-1, "held-out")
    assert rows["green", "one"].against is None
    assert rows["green", "other"].against is None, "other seeds are other clips"


def test_specs_differ_where_they_do(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"green": ONE})
    two = make_run(tmp_path / "two", {"green": ONE}, learning_rate=0.5, ema_decay=0.9)
    found = dict(spec_differences(contestants([one, two])))
    default = RunSpec.model_validate({"backbone": "tiny", "prompts": "list"}).train.learning_rate
    assert found == {"train.learning_rate": [str(default), "0.5"], "train.ema_decay": ["null", "0.9"]}


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name / "run", {"green": ONE}) for name in ("a", "b")]
    assert [one.name for one in contestants(folders)] == ["a/run", "b/run"]
    assert [one.name for one in contestants([folders[0]] * 2)][1].endswith("(2)")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run(tmp_path / "one", {"green": ONE, "form": TWO}, clips=2)
    two = make_run(tmp_path / "two", {"green": TWO, "form": ONE}, clips=1)
    runs = contestants([one, two])
    (_, shown), *more = same_clips(runs)
    assert not more, "the second clip was written by one run alone"
    assert [clip.label for clip in shown] == ["before training", "one", "two"]
    code, out, err = command(monkeypatch, capsys, "compare", one, two, "-o", tmp_path / "both.html")
    assert (code, err, out.strip()) == (0, "", str(tmp_path / "both.html"))
    page = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.count("<video") == 3
    assert "a &lt;b&gt;" in page
    assert re.findall(r'aria-label="(\w+) over optimizer steps: 2 runs"', page) == ["green", "form", "reward"]
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_costs_stand_side_by_side(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"green": ONE, "form": TWO})
    two = make_run(tmp_path / "two", {"green": TWO, "form": ONE})
    (two / "metrics.jsonl").write_text(json.dumps({"step": 1, "time/step": 5.0, "cost/reward_queries": 8.0}))
    table = dict(cost_table(contestants([one, two])))
    dash = "\N{EN DASH}"
    assert table["Clips scored in training"] == [dash, "8"]
    assert table["Clips scored in validations"] == ["16", "16"]
    assert table["Time in optimizer steps"] == [dash, "5.0\N{NO-BREAK SPACE}s"]
    assert "What they cost" in write_comparison([one, two], tmp_path / "both.html").read_text()


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {"green": ONE})
    with pytest.raises(RunFolderError, match="1 run given; expected 2 to 8"):
        write_comparison([one], tmp_path / "page.html")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        write_comparison([one, tmp_path], tmp_path / "page.html")
