"""``vader.train``: from a spec to a finished run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from vader.errors import LaunchError
from vader.paths import user_path
from vader.resolve import code_record
from vader.resolve.plan import Plan
from vader.resolve.validate import Spec, resolve
from vader.runs.assembly import Assembly, assemble, register
from vader.runs.common_folder import START, mark_of_start, require_common
from vader.runs.course import Course
from vader.runs.engine import Engine
from vader.runs.environment import environment
from vader.runs.events import Listeners, Run, RunResult
from vader.runs.folder import RunFolder, step_folders
from vader.runs.launch import require_processes
from vader.runs.listeners import MetricsFile, Trackers
from vader.runs.lock import RunLock
from vader.runs.long_prompts import long_prompts, prompts_of, readers
from vader.runs.resume import Entry, take_up
from vader.runs.retention import Checkpoints, room
from vader.runs.source import to_resume
from vader.runs.step_shares import StepShares, require_whole_round, said, step_shares
from vader.runs.train_step import Counters
from vader.runs.validation import chosen


def train(
    spec: Spec,
    overrides: Sequence[str] = (),
    *,
    rewards: Sequence[Any] = (),
    resume: bool = False,
    listeners: Sequence[object] = (),
    trust_code: bool = False,
) -> RunResult:
    """Align a text-to-video model with reward gradients.

    Args:
        spec: a :class:`vader.RunSpec`, a mapping, or the path of a YAML file; or that of a run folder, with
            ``resume``.
        overrides: dotted ``path=value`` strings, applied first.
        rewards: objects, classes or functions to train on besides the spec's, each with weight 1.
        resume: go on from the newest sound checkpoint of the output folder; begin when there is none.
        listeners: objects with hook implementations (:mod:`vader.runs.events`).
        trust_code: run code that a spec in a file names outside its folder.

    Returns:
        What the run came to; its folder holds adapter, metrics, clips and report.

    Raises:
        SpecError: the spec is wrong; nothing was loaded.
        RunFolderError: the output folder cannot hold the run.
        LaunchError: other processes started than asked for, or another run is going on in this one.
        ComponentError: a component or a listener raised.
        NonFiniteError: loss or gradient stayed NaN or infinite.
        CheckpointError: a checkpoint could not be written or resumed.
    """
    with _alone():
        spec, overrides = to_resume(spec, list(overrides), resume)
        plan = resolve(spec, overrides, rewards, here=True, trust_code=trust_code)
        require_processes(plan.spec.train.processes)
        return _start(plan, resume, listeners)


_RUNNING = threading.Lock()


@contextmanager
def _alone() -> Iterator[None]:
    """One run at a time in a process: runs share its random state, its signals and its place among the processes.

    Raises:
        LaunchError: there is one already.
    """
    if not _RUNNING.acquire(blocking=False):
        raise LaunchError(
            "vader.train is running already in this process. Wait for it, or start this run in a process of its own."
        )
    try:
        yield
    finally:
        _RUNNING.release()


def _start(plan: Plan, resume: bool, listeners: Sequence[object]) -> RunResult:
    """Make the engine and the lock of a run, and see them gone after it."""
    engine = Engine(plan.spec)
    folder, notices = RunFolder(user_path(plan.spec.output)), list(plan.notices)
    lock = RunLock(folder.path, notices.append)
    try:
        return _run(plan, engine, Entry(folder, plan.spec, resume, lock, notices.append), notices, listeners)
    finally:
        engine.watch.end()
        engine.finish_trackers()
        lock.release()


def _run(plan: Plan, engine: Engine, entry: Entry, notices: list[str], listeners: Sequence[object]) -> RunResult:
    """Judge the folder, load, begin, take up a checkpoint, train."""
    folder, spec = entry.folder, plan.spec
    found = engine.from_main([entry.look() if engine.is_main else None])[0]
    shares = step_shares(spec.train, engine.num_processes, found, in_step=engine.in_step)
    step, there = found.step if found else 0, len(step_folders(folder.checkpoints))
    live = assemble(plan, engine, lambda parameters: folder.require_space(room(spec, parameters, step, there)))
    require_whole_round(found, engine.num_processes, live.method.inner_epochs)
    counters = Counters()
    registry = register(live, counters, engine)
    if engine.is_main:
        entry.begin(found)
        notices += _describe(plan, engine, folder, shares)
        if engine.configured:
            notices.append(f"accelerate's own configuration decides the sharding: {engine.sharding.model_dump()}.")
        notices += [text for text in [said(spec.train, engine.num_processes, found, shares)] if text]
        notices += _lost_words(plan, live)
    engine.wait()
    require_common(folder, engine)
    step = take_up(found, registry, spec, engine)
    run = Run(folder.path, spec, step, engine.num_processes, plan.video.fps or 8.0)
    emit = partial(_listeners(folder, engine, plan, listeners).emit, run=run)
    checkpoints = Checkpoints(spec, engine, folder, entry.lock, registry, shares.first_processes)
    course = Course(plan, engine, folder, live, checkpoints, counters, step, shares, emit)
    return course.run(notices)


def _lost_words(plan: Plan, live: Assembly) -> list[str]:
    """A notice of prompts that are cut."""
    asked = list(prompts_of(plan.prompts))
    if plan.spec.validation.clips:
        asked += chosen(plan.spec.validation, plan.validation_prompts)[0]
    said = long_prompts(asked, readers(plan, live.validating))
    return [said] if said is not None else []


def _describe(plan: Plan, engine: Engine, folder: RunFolder, shares: StepShares) -> list[str]:
    """Write down what the run is made with; notices."""
    here = {"device": str(engine.device), "processes": engine.num_processes, "threads": torch.get_num_threads()}
    sharding = engine.sharding.model_dump()
    clips = shares.accumulation * engine.num_processes * plan.spec.train.batch_size
    with folder.writing(folder.path):
        folder.write_environment(
            {**environment(), **here, "clips_per_step": clips, "sharding": sharding, START: mark_of_start()}
        )
        named = {reward.key for reward in plan.spec.rewards}
        passed = {key: part.component for key, part in plan.rewards.items() if key not in named}
        return code_record.record(folder.path, plan.spec, passed)


def _listeners(folder: RunFolder, engine: Engine, plan: Plan, others: Sequence[object]) -> Listeners:
    """The metrics file, trackers, the caller's and plugins', in this order; on the main process alone."""
    own: list[object] = [MetricsFile(folder), *others]
    if plan.spec.trackers:
        own.insert(1, Trackers(engine))
    return Listeners(own if engine.is_main else [], plugins=engine.is_main)
