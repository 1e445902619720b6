"""Run events: who hears them, in which order, and what a listener that fails can do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import vader
from vader.runs.events import Events, Listeners, Validation, ValidationClip

EVENTS = {
    "vader_run_started": {"run"},
    "vader_encoding_progress": {"run", "done", "total"},
    "vader_step_finished": {"run", "step", "metrics"},
    "vader_validation_finished": {"run", "validation"},
    "vader_validation_progress": {"run", "step", "done", "total"},
    "vader_checkpoint_saved": {"run", "step", "path"},
    "vader_notice": {"run", "text"},
    "vader_run_finished": {"run", "result"},
}
RUN: Any = SimpleNamespace(name="run")


class Hears:
    def __init__(self, heard: list[Any], name: str) -> None:
        self.heard, self.name = heard, name

    @vader.hookimpl
    def vader_step_finished(self, run: Any, step: int, metrics: Any) -> None:
        self.heard.append((self.name, run, step, dict(metrics)))


class Fails:
    def __init__(self) -> None:
        self.calls = 0

    @vader.hookimpl
    def vader_step_finished(self, step: int) -> None:
        self.calls += 1
        raise RuntimeError("no disk")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Stands in for the entry points: ``plugins(name=object or exception)``."""

    def point(name: str, value: Any) -> Any:
        def load() -> Any:
            if isinstance(value, BaseException):
                raise value
            return value

        return SimpleNamespace(name=name, dist=SimpleNamespace(name=f"dist-{name}"), load=load)

    def set_to(**listeners: Any) -> None:
        found = [point(name, value) for name, value in listeners.items()]
        pairs = [(each.dist, each) for each in found]
        monkeypatch.setattr("vader.runs.events.listener_points", lambda: pairs)

    set_to()
    return set_to


def emit_step(listeners: Listeners, step: int = 3) -> None:
    listeners.emit("step_finished", run=RUN, step=step, metrics={"reward": 0.5})


def test_events_and_their_arguments_are_pinned() -> None:
    found = {name: getattr(Events, name) for name in vars(Events) if name.startswith("vader_")}
    arguments = {
        name: set(function.__code__.co_varnames[: function.__code__.co_argcount]) - {"self"}
        for name, function in found.items()
    }
    assert arguments == EVENTS


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_reaches_its_listener(event: str, plugins: Callable[..., None]) -> None:
    heard: list[dict[str, Any]] = []
    parameters = ", ".join(sorted(EVENTS[event]))
    scope: dict[str, Any] = {"heard": heard}
    exec(f"def {event}({parameters}): heard.append(dict(locals()))", scope)
    listener = SimpleNamespace(**{event: vader.hookimpl(scope[event])})
    given = {name: object() for name in EVENTS[event]}
    Listeners([listener]).emit(event.removeprefix("vader_"), **given)
    assert heard == [given]


def test_own_listeners_hear_in_order_and_before_plugins(plugins: Callable[..., None]) -> None:
    heard: list[Any] = []
    plugins(theirs=Hears(heard, "theirs"))
    emit_step(Listeners([Hears(heard, "first"), Hears(heard, "second")]))
    assert [name for name, *_ in heard] == ["first", "second", "theirs"]
    assert heard[0][1:] == (RUN, 3, {"reward": 0.5})


def test_a_listener_may_take_fewer_arguments(plugins: Callable[..., None]) -> None:
    listener = Fails()
    with pytest.raises(RuntimeError):
        emit_step(Listeners([listener]))
    assert listener.calls == 1


def test_a_module_can_listen(plugins: Callable[..., None]) -> None:
    heard: list[int] = []
    module = type(sys)("zz_listener")
    module.vader_step_finished = vader.hookimpl(lambda step: heard.append(step))  # type: ignore[attr-defined]
    plugins(theirs=module)
    emit_step(Listeners([]))
    assert heard == [3]


def test_an_error_of_an_own_listener_is_an_error_of_the_run(plugins: Callable[..., None]) -> None:
    with pytest.raises(RuntimeError, match="no disk"):
        emit_step(Listeners([Fails()]))


def test_a_plugin_that_raises_is_named_once_and_left_out_and_the_others_go_on(plugins: Callable[..., None]) -> None:
    heard: list[Any] = []
    bad = Fails()
    plugins(bad=bad, good=Hears(heard, "good"))
    listeners = Listeners([])
    with pytest.warns(UserWarning, match="listener bad of dist-bad raised at step_finished and is left out.*no disk"):
        emit_step(listeners, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emit_step(listeners, 2)
    assert bad.calls == 1
    assert [step for _, _, step, _ in heard] == [1, 2]


@pytest.mark.parametrize("error", [ImportError("no torch"), SystemExit("bye"), ZeroDivisionError("by zero")])
def test_a_plugin_that_does_not_load_is_named_and_left_out(plugins: Callable[..., None], error: BaseException) -> None:
    heard: list[Any] = []
    plugins(bad=error, good=Hears(heard, "good"))
    with pytest.warns(UserWarning, match=f"listener bad of dist-bad is left out: {type(error).__name__}: {error}"):
        listeners = Listeners([])
    emit_step(listeners)
    assert [name for name, *_ in heard] == ["good"]


def test_a_plugin_with_a_misspelt_event_is_named_and_left_out(plugins: Callable[..., None]) -> None:
    plugins(bad=SimpleNamespace(vader_step_finishd=vader.hookimpl(lambda run: None)))
    with pytest.warns(UserWarning, match="listener bad of dist-bad is left out.*vader_step_finishd"):
        Listeners([])


def test_plugins_can_be_left_out(plugins: Callable[..., None]) -> None:
    heard: list[Any] = []
    plugins(theirs=Hears(heard, "theirs"))
    emit_step(Listeners([], plugins=False))
    assert heard == []


def test_two_runs_do_not_hear_each_other(plugins: Callable[..., None]) -> None:
    heard: list[Any] = []
    one, other = Listeners([Hears(heard, "one")]), Listeners([Hears(heard, "other")])
    emit_step(one)
    emit_step(other)
    assert [name for name, *_ in heard] == ["one", "other"]


def test_a_plugin_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "zz_listener-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-listener\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vader.plugins]\nzz = zz_listener_module\n")
    source = "import vader\nheard = []\n@vader.hookimpl\ndef vader_notice(text):\n    heard.append(text)\n"
    (tmp_path / "zz_listener_module.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    Listeners([]).emit("notice", run=RUN, text="hello")
    assert sys.modules.pop("zz_listener_module").heard == ["hello"]


def test_a_distribution_with_unreadable_entry_points_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "zz_bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vader.plugins]\nno equals sign\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    heard: list[Any] = []
    emit_step(Listeners([Hears(heard, "own")]))
    assert [name for name, *_ in heard] == ["own"]


def test_a_validation_has_the_mean_of_each_score() -> None:
    clips = tuple(ValidationClip(i, "p", i, {"a": float(i), "b": 1.0}) for i in range(3))
    validation = Validation(5, clips)
    assert validation.keys == ["a", "b"]
    assert (validation.mean("a"), validation.mean("b")) == (1, 1)
    assert Validation(5, ()).keys == []
