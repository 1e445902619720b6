"""ComponentResolver of the report: numbers, axes, curves, and what goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch

from vader.diffusion.frames import write_clip
from vader.errors import RunFolderError
from vader.report import ReportListener, clips, write_report
from vader.report.axis import round_values, value_axis
from vader.report.charts import moving_average, training_chart
from vader.report.comparison import compare, score_keys
from vader.report.numbers import duration, mean_text, plain, short, signed, size
from vader.report.reading import read_run
from vader.runs.events import Listeners, Run, RunResult
from vader.runs.folder import written_size
from vader.runs.validation import clip_writer
from vader.spec import RunSpec

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (plain(0.314), "0.31"),
        (plain(-0.314), f"{MINUS}0.31"),
        (plain(-0.001, 2), "0.00"),
        (plain(0.00123), "0.0012"),
        (plain(23.456), "23.5"),
        (plain(12345.6), "12,346"),
        (signed(0.5), "+0.50"),
        (signed(0.001, 2), "0.00"),
        (signed(-2.0), f"{MINUS}2.00"),
        (short(0.0003), f"3e{MINUS}4"),
        (short(1200.0), "1200"),
        (mean_text([0.0, 1.0, 1.0, 1.0]), "75.0 %"),
        (mean_text([0.5, 1.0]), "0.75"),
        (duration(0.0003), "0.3 ms"),
        (duration(0.0123), "12 ms"),
        (duration(192.0), "3 min 12 s"),
        (duration(18240.0), "5 h 04 min"),
        (size(1.5 * 2**30), "1.50 GiB"),
        (size(2**20), "1 MiB"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text.replace("\N{NO-BREAK SPACE}", " ") == expected


def test_ticks_are_round_and_inside() -> None:
    assert round_values(0, 100) == [0, 20, 40, 60, 80, 100]
    axis = value_axis([0.312, 0.843], 160, 10)
    assert axis.labels() == ["0.4", "0.6", "0.8"]
    assert all(10 <= axis.place(tick) <= 160 for tick in axis.ticks)


def test_constant_values_have_an_axis_too() -> None:
    assert value_axis([0.0, 0.0], 160, 10).low < value_axis([0.0, 0.0], 160, 10).high
    assert value_axis([-3.0], 160, 10).place(-3.0) == pytest.approx(85)


def test_wide_positive_values_may_be_logarithmic() -> None:
    assert value_axis([0.1, 1000.0], 160, 10, log=True).ticks == pytest.approx([0.1, 1.0, 10.0, 100.0, 1000.0])
    assert not value_axis([0.0, 1000.0], 160, 10, log=True).log


def test_moving_average_keeps_a_line_and_flattens_noise() -> None:
    assert moving_average([5.0] * 50) == [5.0] * 50
    assert max(moving_average([0.0, 1.0] * 50)) < 0.7


def test_long_curves_are_thinned() -> None:
    chart = training_chart("loss", [(float(step), 1.0) for step in range(1, 5001)])
    assert chart.svg.count(",") < 700
    assert chart.note == "1.00 \N{RIGHTWARDS ARROW} 1.00"


def test_folder_of_no_run_is_an_error_that_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"not a run folder: .*spec\.yaml.*`vader train`"):
        write_report(tmp_path)


def test_listener_never_ends_a_run(tmp_path: Path) -> None:
    listeners = Listeners([ReportListener()], plugins=False)
    spec = RunSpec.model_validate({"backbone": "tiny", "prompts": "list"})
    run = Run(tmp_path, spec, 0, 1, 8.0)
    with pytest.warns(UserWarning, match=r"report\.html is not written: .*`vader report"):
        listeners.emit("run_finished", run=run, result=RunResult(tmp_path, 0, None, {}))


@pytest.mark.parametrize(("height", "width"), [(32, 48), (5, 7), (129, 131), (128, 256)])
def test_the_size_that_is_told_is_that_of_the_video_file(tmp_path: Path, height: int, width: int) -> None:
    name = clip_writer(tmp_path, 8.0)(0, torch.rand(3, 3, height, width))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / str(name)), "-f", "null", "-"]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stderr
    size = written_size(3, height, width, 8.0)
    assert f", {size.width}x{size.height}" in said
    assert re.search(rf"frame=\s*{size.frames}\b", said)


@pytest.mark.parametrize(
    ("video", "expected"),
    [({}, None), ({"frames": 3, "height": 32, "width": 48}, 'width="192" height="128"')],
    ids=["unknown", "of the spec"],
)
def test_a_folder_that_does_not_tell_the_size_of_its_clips(
    tmp_path: Path, video: dict[str, int], expected: str | None
) -> None:
    samples = tmp_path / "samples" / "step-000000"
    samples.mkdir(parents=True)
    write_clip(samples / "a.mp4", torch.rand(3, 3, 32, 48), 8, scale=4)
    row = {"index": 0, "prompt": "p", "seed": 0, "scores": {}, "file": "a.mp4"}
    (samples / "validation.json").write_text(json.dumps({"step": 0, "clips": [row]}))
    spec = RunSpec.model_validate({"backbone": "tiny", "prompts": "list", "rewards": ["r"], "video": video})
    (tmp_path / "spec.yaml").write_text(spec.to_yaml())
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert html.count("<video") == 1
    assert ("width=" in html.split("<video")[1].split(">")[0]) == (expected is not None)
    assert expected is None or expected in html


def test_import_brings_no_torch() -> None:
    code = "import sys, vader.report; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_clips_beyond_the_budget_are_counted_not_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = tmp_path / "samples" / "step-000000"
    samples.mkdir(parents=True)
    rows = [{"index": i, "prompt": "p", "seed": i, "scores": {}, "file": f"{i}.gif"} for i in range(3)]
    for row in rows:
        (samples / str(row["file"])).write_bytes(bytes(1000))
    (samples / "validation.json").write_text(json.dumps({"step": 0, "clips": rows}))
    monkeypatch.setattr(clips, "BUDGET", 2500)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert html.count("<img") == 2
    assert "1 more did not fit into this file" in html


def write_scores(folder: Path, step: int, scores: list[float], settings: str) -> None:
    samples = folder / "samples" / f"step-{step:06d}"
    samples.mkdir(parents=True)
    rows = [{"index": i, "prompt": "p", "seed": i, "scores": {"s": score}} for i, score in enumerate(scores)]
    (samples / "validation.json").write_text(json.dumps({"step": step, "settings": settings, "clips": rows}))


def test_validations_of_other_settings_are_not_compared(tmp_path: Path) -> None:
    write_scores(tmp_path, 0, [0.1, 0.2, 0.3], "old")
    write_scores(tmp_path, 10, [0.1, 0.2, 0.3], "new")
    assert [validation.step for validation in read_run(tmp_path).validations] == [10]
    write_scores(tmp_path, 20, [0.4, 0.5, 0.7], "new")
    assert [validation.step for validation in read_run(tmp_path).validations] == [10, 20]


def test_the_validation_of_the_kept_adapter_is_compared(tmp_path: Path) -> None:
    for step, scores in ((0, [0.1, 0.2, 0.3]), (10, [0.5, 0.6, 0.8]), (20, [0.4, 0.5, 0.7])):
        write_scores(tmp_path, step, scores, "same")
    run = read_run(tmp_path)
    comparison = compare(run)
    assert comparison is not None
    assert comparison.after is not None
    assert (comparison.before.step, comparison.after.step) == (0, 20)
    (key,) = score_keys(run)
    stop = {"validate_every": 10, "early_stop": {"score": key, "patience": 1}}
    data = {"backbone": "x", "prompts": "x", "train": stop, "validation": {"rewards": [{"name": "x", "label": key}]}}
    comparison = compare(replace(run, spec=RunSpec.model_validate(data)))
    assert comparison is not None
    assert comparison.after is not None
    assert (comparison.before.step, comparison.after.step) == (0, 10)


def test_certain_but_small_gain_is_called_slight(tmp_path: Path) -> None:
    scores = [float(i) for i in range(10)]
    write_scores(tmp_path, 0, scores, "")
    write_scores(tmp_path, 10, [score + 0.1 for score in scores], "")
    assert "Slightly better" in write_report(tmp_path).read_text(encoding="utf-8")
