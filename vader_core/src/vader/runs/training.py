"""``vader.train``: from a spec to a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vader.resolve import code_record
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve
from vader.runs import checkpoint
from vader.runs.assembly import assemble, register
from vader.runs.course import Course
from vader.runs.engine import Engine
from vader.runs.environment import environment
from vader.runs.events import Listeners, Run, RunResult
from vader.runs.folder import RunFolder
from vader.runs.launch import require_processes
from vader.runs.listeners import MetricsFile, Trackers
from vader.runs.resume import open_folder, take_up
from vader.runs.train_step import Counters


def train(
    spec: Spec,
    overrides: Sequence[str] = (),
    *,
    rewards: Sequence[Any] = (),
    resume: bool = False,
    listeners: Sequence[object] = (),
) -> RunResult:
    """Align a text-to-video model with reward gradients.

    Args:
        spec: a :class:`vader.RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.
        rewards: objects, classes or functions to train on besides the spec's, each with weight 1.
        resume: go on from the newest sound checkpoint of the output folder; begin when there is none.
        listeners: objects with hook implementations (:mod:`vader.runs.events`).

    Returns:
        What the run came to; its folder holds adapter, metrics, clips and report.

    Raises:
        SpecError: the spec is wrong; nothing was loaded.
        RunFolderError: the output folder cannot hold the run.
        LaunchError: other processes started than asked for.
        NonFiniteError: loss or gradient stayed NaN or infinite.
        CheckpointError: a checkpoint could not be written or resumed.
    """
    plan = resolve(spec, overrides, rewards, here=True)
    require_processes(plan.spec.train.processes)
    engine = Engine(plan.spec)
    try:
        return _run(plan, engine, resume, listeners)
    finally:
        engine.finish_trackers()


def _run(plan: Plan, engine: Engine, resume: bool, listeners: Sequence[object]) -> RunResult:
    """Open the folder, load, take up a checkpoint, train."""
    folder, notices = RunFolder(Path(plan.spec.output).expanduser()), list[str]()
    found = _open(plan, engine, folder, resume, notices)
    live = assemble(plan, engine, folder.require_space)
    counters = Counters()
    registry = register(live, counters, engine)
    step = take_up(found, registry, plan.spec, engine)
    run = Run(folder.path, plan.spec, step, engine.num_processes, plan.video.fps or 8.0)
    emit = partial(_listeners(folder, engine, plan, listeners).emit, run=run)
    course = Course(plan, engine, folder, live, registry, counters, step, emit)
    return course.run(notices)


def _open(
    plan: Plan, engine: Engine, folder: RunFolder, resume: bool, notices: list[str]
) -> checkpoint.Checkpoint | None:
    """The checkpoint to resume from; the main process has made the folder ready and described the run in it."""
    found = None
    if engine.is_main:
        found = open_folder(folder, plan.spec, resume=resume, notice=notices.append)
        here = {"device": str(engine.device), "processes": engine.num_processes, "threads": torch.get_num_threads()}
        folder.write_environment({**environment(), **here})
        named = {reward.key for reward in plan.spec.rewards}
        passed = {key: part.component for key, part in plan.rewards.items() if key not in named}
        notices += code_record.record(folder.path, plan.spec, passed)
    engine.wait()
    return found if engine.is_main else checkpoint.newest(folder.checkpoints, lambda _: None)


def _listeners(folder: RunFolder, engine: Engine, plan: Plan, others: Sequence[object]) -> Listeners:
    """The metrics file, trackers, the caller's and plugins', in this order; on the main process alone."""
    own: list[object] = [MetricsFile(folder), *others]
    if plan.spec.trackers:
        own.insert(1, Trackers(engine))
    return Listeners(own if engine.is_main else [], plugins=engine.is_main)
