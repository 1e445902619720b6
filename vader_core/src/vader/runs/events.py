"""Run events, as pluggy hooks. Progress, metrics.jsonl, trackers and the report listen to the same events as anyone.

A plugin registers a module or an object with hook implementations under the entry-point group ``vader.plugins``::

    import vader

    @vader.hookimpl
    def vader_step_finished(run, step, metrics):
        print(step, metrics["reward"])

Events fire on the main process only. A listener of a third party that raises is named in a warning and left out for
the rest of the run; it never stops it. One that is passed to ``vader.train`` ends the run, with an error that names it;
a :class:`vader.VaderError` that it raises comes out as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from vader.errors import blame
from vader.plugins.discovery import CORE
from vader.plugins.selection import listener_points
from vader.spec import RunSpec

Function = TypeVar("Function", bound=Callable[..., Any])
_hookspec = pluggy.HookspecMarker("vader")
_hookimpl = pluggy.HookimplMarker("vader")


def hookimpl(function: Function) -> Function:
    """Marks a function as a listener of the event it is named after."""
    return _hookimpl(function)


def _spec(function: Function) -> Function:
    return _hookspec(function)


@dataclass(frozen=True)
class Run:
    """The run that an event is about."""

    folder: Path
    spec: RunSpec
    start_step: int
    """Optimizer steps done before this start; above 0 for a resumed run."""
    processes: int
    fps: float


@dataclass(frozen=True)
class ValidationClip:
    """One clip of a validation: its prompt, the seed of its noise, its raw scores, and its file when it was written."""

    index: int
    prompt: str
    seed: int
    scores: Mapping[str, float]
    file: str | None = None
    image: str | None = None
    """File of the image that the prompt gave, beside the clip's."""
    sketch: bytes | None = field(default=None, repr=False)
    """The clip in few bytes; see :func:`vader.diffusion.frames.sketch`."""
    statistics: Mapping[str, float] = field(default_factory=dict)
    """Of its pixels, whatever they show: see :mod:`vader.runs.image_statistics`."""
    kind: str | None = None
    """What kind of prompt it has: ``kind`` of the prompt's metadata."""


@dataclass(frozen=True)
class Alarm:
    """A sign of reward hacking: a statistic of a validation's clips that has left the range of the base model's."""

    statistic: str
    """What left its range, in a word or two: ``contrast``."""
    step: int
    """Optimizer steps done when it was first outside."""
    text: str
    """What happened, one sentence."""


@dataclass(frozen=True)
class ClipSize:
    """The written clips of a validation: frames, height and width in pixels, frames per second."""

    frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class Validation:
    """A validation after ``step`` optimizer steps: the same prompts and seeds each time."""

    step: int
    clips: tuple[ValidationClip, ...]
    size: ClipSize | None = None
    """None where it is not known."""
    alarms: tuple[Alarm, ...] = ()
    seconds: float | None = field(default=None, compare=False)
    """That it took; None where it is not known, like ``joules``."""
    joules: float | None = field(default=None, compare=False)
    """That the devices of all processes took in it."""

    def mean(self, key: str) -> float:
        """Mean raw score of a reward."""
        return sum(clip.scores[key] for clip in self.clips) / len(self.clips)

    @property
    def keys(self) -> list[str]:
        """Names of the rewards that scored it."""
        return list(self.clips[0].scores) if self.clips else []


@dataclass(frozen=True)
class RunResult:
    """What a run came to."""

    folder: Path
    step: int
    stopped: str | None
    """Why the run ended before its last step (SIGTERM, SIGINT); None when it is complete."""
    metrics: Mapping[str, float]
    """Of the last optimizer step."""
    validations: tuple[Validation, ...] = field(default=())
    skipped_steps: int = 0
    adapter_step: int = 0
    """Optimizer step of the adapter that was kept; an earlier one under ``train.early_stop``."""

    def _repr_html_(self) -> str:
        """In a notebook: scores before and after, and clips."""
        from vader.runs.display import result_html

        return result_html(self)


class Events:
    """The hook specifications."""

    @_spec
    def vader_run_started(self, run: Run) -> None:
        """Everything is built; prompts, the first validation and the first optimizer step come next."""

    @_spec
    def vader_encoding_progress(self, run: Run, done: int, total: int) -> None:
        """``done`` of ``total`` prompts that are to come have been encoded, in this process."""

    @_spec
    def vader_step_finished(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """An optimizer step is done. ``step`` counts from 1."""

    @_spec
    def vader_validation_progress(self, run: Run, step: int, done: int, total: int) -> None:
        """``done`` of ``total`` clips have been made and scored, by all processes together."""

    @_spec
    def vader_validation_finished(self, run: Run, validation: Validation) -> None:
        """Clips were made from the validation prompts and scored."""

    @_spec
    def vader_checkpoint_saved(self, run: Run, step: int, path: Path) -> None:
        """A checkpoint is complete on disk."""

    @_spec
    def vader_notice(self, run: Run, text: str) -> None:
        """Something a user should know: a damaged checkpoint passed over, a skipped optimizer step."""

    @_spec
    def vader_run_finished(self, run: Run, result: RunResult) -> None:
        """The run is over: complete, or stopped and saved."""


class Listeners:
    """Calls the listeners of an event, own ones first, then plugins'.

    Args:
        own: listeners of vader itself, in order; their errors are errors of the run.
        plugins: whether to add those of the entry-point group ``vader.plugins``.
    """

    def __init__(self, own: list[object], *, plugins: bool = True) -> None:
        self._own, self._foreign = list[tuple[str, pluggy.PluginManager]](), dict[str, pluggy.PluginManager]()
        built_in: list[object] = []
        for found, point in listener_points() if plugins else ():
            if found.name == CORE:
                built_in.append(_instance(point.load()))
                continue
            name = f"{point.name} of {found.name}"
            try:
                self._foreign[name] = _manager(_instance(point.load()))
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                warnings.warn(f"listener {name} is left out: {type(error).__name__}: {error}", stacklevel=2)
        for listener in (*own, *built_in):
            self._own.append((getattr(listener, "__name__", type(listener).__name__), _manager(listener)))

    def emit(self, event: str, **arguments: Any) -> None:
        """Fire ``event``, the hook's name without ``vader_``.

        Raises:
            ComponentError: one of the caller's listeners raised; a :class:`vader.VaderError` stays what it is.
        """
        for name, manager in self._own:
            with blame(f"listener {name}, at {event},"):
                getattr(manager.hook, f"vader_{event}")(**arguments)
        for name, manager in list(self._foreign.items()):
            try:
                getattr(manager.hook, f"vader_{event}")(**arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                del self._foreign[name]
                warnings.warn(f"listener {name} raised at {event} and is left out: {error!r}", stacklevel=2)


def _instance(listener: Any) -> object:
    """A listener that is registered as a class is constructed without arguments."""
    return listener() if isinstance(listener, type) else listener


def _manager(listener: object) -> pluggy.PluginManager:
    """Calls one listener."""
    manager = pluggy.PluginManager("vader")
    manager.add_hookspecs(Events)
    manager.register(listener)
    manager.check_pending()
    return manager
