"""The format of a run folder: what is written is read again, and what is torn or missing is left out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from vader.errors import LaunchError
from vader.runs.common_folder import START, mark_of_start, require_common
from vader.runs.events import Alarm, ClipSize, Validation, ValidationClip
from vader.runs.folder import RunFolder, step_folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.make()
    return made


def validation(step: int, score: float = 0.5) -> Validation:
    first = ValidationClip(0, "a prompt", 7, {"s": score}, "clip-000.mp4", sketch=bytes(range(48)))
    first = replace(first, statistics={"colour": 0.25, "diversity": 0.5}, kind="relation")
    alarms = (Alarm("contrast", step, "It left its range."),)
    return Validation(step, (first, ValidationClip(1, "b", 8, {"s": 1.0})), ClipSize(9, 128, 192, 8.0), alarms)


def test_metrics_are_read_as_they_were_written(folder: RunFolder) -> None:
    folder.append_metrics(1, {"loss": 0.25, "grad_norm": math.inf})
    folder.append_metrics(2, {"loss": 0.125})
    assert folder.read_metrics() == [{"step": 1, "loss": 0.25, "grad_norm": None}, {"step": 2, "loss": 0.125}]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "\x00\x00", '[1]\n{"step": null}', ""])
def test_torn_metrics_are_left_out_and_trimmed(folder: RunFolder, torn: str) -> None:
    for step in (1, 2):
        folder.append_metrics(step, {"loss": 1.0 / step})
    with folder.metrics.open("a") as file:
        file.write(torn)
    assert [line["step"] for line in folder.read_metrics()] == [1, 2]
    folder.trim_metrics(1)
    assert folder.metrics.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_steps_that_a_resumption_repeats_count_once(folder: RunFolder) -> None:
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 4.0)):
        folder.append_metrics(step, {"loss": loss})
    assert folder.read_metrics() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 4.0}]


def test_a_validation_is_read_as_it_was_written(folder: RunFolder) -> None:
    for step in (20, 0):
        folder.validation(step).mkdir()
        folder.write_validation(validation(step), "settings")
    saved = folder.read_validations()
    assert [one.validation for one in saved] == [validation(0), validation(20)]
    assert {one.settings for one in saved} == {"settings"}
    assert folder.read_validation(20) == saved[1]
    assert folder.read_validation(40) is None


def test_a_validation_keeps_what_it_spent(folder: RunFolder) -> None:
    folder.validation(0).mkdir()
    folder.write_validation(replace(validation(0), seconds=2.5, joules=30.0), "settings")
    saved = folder.read_validation(0)
    assert saved is not None
    assert (saved.sound, saved.validation.seconds, saved.validation.joules) == (True, 2.5, 30.0)


@pytest.mark.parametrize("said", ["", '"seconds": "long", "joules": null, ', '"seconds": -1, "joules": 1e400, '])
def test_what_a_validation_spent_may_not_be_known(folder: RunFolder, said: str) -> None:
    folder.validation(0).mkdir()
    (folder.validation(0) / "validation.json").write_text(f'{{"step": 0, {said}"clips": []}}')
    saved = folder.read_validation(0)
    assert saved is not None
    assert (saved.validation.seconds, saved.validation.joules) == (None, None)


def test_a_score_that_is_not_finite_comes_back_as_nan(folder: RunFolder) -> None:
    folder.validation(0).mkdir()
    folder.write_validation(validation(0, math.inf), "settings")
    saved = folder.read_validation(0)
    assert saved is not None
    assert math.isnan(saved.validation.clips[0].scores["s"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": "0"}', "null"])
def test_a_validation_that_cannot_be_read_is_none(folder: RunFolder, text: str) -> None:
    folder.validation(0).mkdir()
    (folder.validation(0) / "validation.json").write_text(text)
    assert folder.read_validation(0) is None
    assert folder.read_validations() == []


@pytest.mark.parametrize("size", [None, [], {"frames": 1}, {"frames": 1, "height": 2, "width": 3, "fps": 8, "x": 1}])
def test_a_size_that_is_not_told_is_unknown(folder: RunFolder, size: object) -> None:
    folder.validation(0).mkdir()
    folder.write_validation(validation(0), "settings")
    path = folder.validation(0) / "validation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": size}))
    saved = folder.read_validation(0)
    assert saved is not None
    assert saved.validation.size is None


def test_steps_have_folders_that_sort() -> None:
    assert [step_folder(step) for step in (0, 100, 1234567)] == ["step-000000", "step-000100", "step-1234567"]


def test_the_format_is_known_without_torch() -> None:
    code = "import sys, vader.runs.folder; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Engine:
    """A process of two, and what it is told."""

    num_processes, process_index = 2, 1

    def __init__(self, main: str) -> None:
        self.main = main

    def from_main(self, values: list[Any]) -> list[Any]:
        return [self.main]

    def gather_objects(self, values: list[Any]) -> list[Any]:
        return [None, *values]


def test_a_folder_that_another_machine_does_not_see(tmp_path: Path) -> None:
    """It sees none, or one of an earlier start; in time it may see that of this one."""
    folder, engine = RunFolder(tmp_path), cast(Any, Engine("ab"))
    said = "is not one folder for all processes.*process 1 on .*absolute path"
    with pytest.raises(LaunchError, match=said):
        require_common(folder, engine, 0.1)
    folder.write_environment({START: mark_of_start()})
    with pytest.raises(LaunchError, match=said):
        require_common(folder, engine, 0.1)
    late = threading.Timer(0.5, lambda: folder.write_environment({START: "ab"}))
    late.start()
    require_common(folder, engine, 20.0)
    late.join()
    assert mark_of_start() != mark_of_start()
