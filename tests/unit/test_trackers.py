"""What trackers are given, each in its own words; stand-ins take their place where they are not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from vader.diffusion.frames import write_clip
from vader.runs.events import Listeners, Run, Validation, ValidationClip
from vader.runs.listeners import Trackers
from vader.runs.trackers import ClipFile, configuration, log_clips, log_text
from vader.spec import RunSpec

SPEC = RunSpec.model_validate({"backbone": "tiny", "prompts": "list", "rewards": ["green"], "train": {"steps": 2}})


class Log:
    """A run that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[tuple[dict[str, Any], int]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.said.append((values, step))


@pytest.fixture
def clip(tmp_path: Path) -> ClipFile:
    write_clip(tmp_path / "clip.mp4", torch.rand(3, 3, 16, 24), 8)
    return ClipFile("validation/clip-000", tmp_path / "clip.mp4", "a fox (s 0.5)")


def test_the_spec_is_given_as_plain_values_and_as_yaml() -> None:
    found = configuration(SPEC)
    assert found["train.steps"] == 2
    assert found["rewards.0.name"] == "green"
    assert found["train.seed"] == SPEC.train.seed
    assert all(isinstance(value, bool | int | float | str) for value in found.values())
    assert found["spec"] == SPEC.to_yaml()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_clips_as_videos(name: str, clip: ClipFile, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType(name)
    module.Video = lambda path, **named: (str(path), named["caption"])
    monkeypatch.setitem(sys.modules, name, module)
    run = Log()
    log_clips(name, run, [clip], 4)
    log_text(name, run, "notice", "skipped", 5)
    log_clips(name, run, [], 6)
    assert run.said == [({clip.name: (str(clip.path), clip.caption)}, 4), ({"notice": "skipped"}, 5)]


def test_clips_as_moving_pictures_for_tensorboard(clip: ClipFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def summary(value: list[Any]) -> Any:
        return value[0]

    for name in (
        "tensorboard",
        "tensorboard.compat",
        "tensorboard.compat.proto",
        "tensorboard.compat.proto.summary_pb2",
    ):
        module: Any = ModuleType(name)
        module.Summary = summary
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(summary, "Image", SimpleNamespace, raising=False)
    monkeypatch.setattr(summary, "Value", SimpleNamespace, raising=False)
    given: list[tuple[Any, int]] = []
    texts: list[tuple[str, str, int]] = []
    writer = SimpleNamespace(
        _get_file_writer=lambda: SimpleNamespace(add_summary=lambda value, step: given.append((value, step))),
        add_text=lambda name, text, global_step: texts.append((name, text, global_step)),
        flush=lambda: None,
    )
    log_clips("tensorboard", writer, [clip], 4)
    log_text("tensorboard", writer, "notice", "skipped", 5)
    ((value, step),) = given
    assert (value.tag, step) == (clip.name, 4)
    assert (value.image.height, value.image.width) == (16, 24)
    assert value.image.encoded_image_string.startswith(b"GIF89a")
    assert texts == [(f"{clip.name}/caption", clip.caption, 4), ("notice", "skipped", 5)]


class Engine:
    """Takes the place of a run's."""

    def __init__(self, tracker: Log) -> None:
        self._tracker = tracker
        self.figures: list[tuple[dict[str, float], int]] = []
        self.configuration: dict[str, Any] = {}

    def start_trackers(self, values: dict[str, Any]) -> None:
        self.configuration = values

    def log(self, values: dict[str, float], step: int) -> None:
        self.figures.append((values, step))

    def tell_trackers(self, say: Callable[[str, Any], None]) -> None:
        say("wandb", self._tracker)


def test_the_listener_gives_spec_figures_clips_and_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("wandb")
    module.Video = lambda path, **named: (Path(path).relative_to(tmp_path).as_posix(), named["caption"])
    monkeypatch.setitem(sys.modules, "wandb", module)
    tracker = Log()
    engine: Any = Engine(tracker)
    listeners, run = Listeners([Trackers(engine)], plugins=False), Run(tmp_path, SPEC, 3, 1, 8.0)
    listeners.emit("run_started", run=run)
    listeners.emit("notice", run=run, text="resumed")
    figures = {"score/green": 0.5, "normalized/green": 1.5}
    listeners.emit("step_finished", run=run, step=4, metrics=figures)
    clips = (ValidationClip(0, "a fox", 7, {"green": 0.25}, "clip-000.mp4"), ValidationClip(1, "b", 8, {"green": 0.75}))
    listeners.emit("validation_finished", run=run, validation=Validation(4, clips))
    assert engine.configuration == configuration(SPEC)
    assert engine.figures == [(figures, 4), ({"validation/green": 0.5}, 4)]
    video = ("samples/step-000004/clip-000.mp4", "a fox (green 0.25)")
    assert tracker.said == [({"notice": "resumed"}, 3), ({"validation/clip-000": video}, 4)]
