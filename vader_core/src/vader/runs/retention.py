"""The checkpoints of a run: what must be on disk before one is written, which others go then, the room they take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from vader.runs import checkpoint, early_stop
from vader.runs.engine import Engine
from vader.runs.events import Validation
from vader.runs.folder import RunFolder, step_folder, step_folders
from vader.runs.lock import RunLock
from vader.runs.stateful import Registry
from vader.spec import RunSpec

_CHECKPOINT, _AVERAGE, _ADAPTER = 12, 4, 8
"""Bytes on disk for each parameter that trains: of a checkpoint, of a moving average in it, of an adapter for users."""


class Checkpoints:
    """Writes a run's checkpoints and keeps those that it is to keep.

    Args:
        spec: of the run.
        engine: of the run.
        folder: of the run.
        lock: of the folder; the main process's alone is held.
        registry: what a checkpoint keeps.
        first_processes: of the run as it began.
    """

    def __init__(
        self,
        spec: RunSpec,
        engine: Engine,
        folder: RunFolder,
        lock: RunLock,
        registry: Registry,
        first_processes: int,
    ) -> None:
        self._spec, self._engine, self._folder, self._lock, self._registry = spec, engine, folder, lock, registry
        self._first_processes = first_processes

    def save(self, step: int, validations: Callable[[int], Sequence[Validation]], saved: Callable[..., None]) -> None:
        """Write the checkpoint after ``step`` optimizer steps. Every process calls it, together.

        Args:
            step: optimizer steps done.
            validations: gives all validations up to a step.
            saved: told the step and the path; on the main process.

        Raises:
            CheckpointError: it could not be written; earlier ones are untouched.
            RunFolderError: the metrics that it counts cannot be brought to disk.
        """
        engine, spec = self._engine, self._spec
        state = self._registry.collect(engine.gather_objects, main=engine.is_main)
        if engine.is_main:
            self._folder.flush_metrics()
            path = checkpoint.save(
                self._folder.checkpoints,
                step,
                digest=spec.digest(),
                processes=engine.num_processes,
                first_processes=self._first_processes,
                registry=self._registry,
                state=state,
            )
            self._lock.note_checkpoint()
            saved(step=step, path=path)
            self._prune(step, validations)
        engine.wait()

    def _prune(self, step: int, validations: Callable[[int], Sequence[Validation]]) -> None:
        """Remove the checkpoints that are not kept. Those of later steps are remains that the run will replace."""
        keep = self._spec.train.keep_checkpoints
        if keep is None:
            return
        made = [path for path in step_folders(self._folder.checkpoints) if int(path.name[5:]) <= step]
        names = {path.name for path in made}
        judged = [one for one in validations(step) if step_folder(one.step) in names]
        best = step_folder(early_stop.best_of_run(self._spec, judged).step) if judged else None
        for path in made[:-keep]:
            if path.name != best:
                checkpoint.discard(path)


def room(spec: RunSpec, parameters: int, step: int, there: int) -> int:
    """Bytes that a run will still write for what it keeps.

    Args:
        spec: of the run.
        parameters: that train.
        step: optimizer steps done.
        there: checkpoints on disk.
    """
    train = spec.train
    copies = math.ceil(max(0, train.steps - step) / train.checkpoint_every)
    if train.keep_checkpoints is not None:  # the best besides, and the one being written
        copies = min(copies, max(1, train.keep_checkpoints + 2 - there))
    adapters = 2 if train.early_stop is None else 3  # the one being written besides
    each = _CHECKPOINT + (_AVERAGE if train.ema_decay is not None else 0)
    return parameters * (copies * each + adapters * _ADAPTER)
