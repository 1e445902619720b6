"""The way into a run: judge its folder and choose the checkpoint; when all is loaded, begin; take up what is kept.

Until the run begins its folder is looked at and nothing in it is changed, so that a mistake costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import ValidationError

from vader.diffusion.seeding import derive
from vader.errors import CheckpointError, RunFolderError, SpecError, cut
from vader.runs import checkpoint, cleaning
from vader.runs.changes import changes
from vader.runs.checkpoint import Checkpoint
from vader.runs.engine import Engine
from vader.runs.folder import CHECKPOINTS, METRICS, SPEC, RunFolder
from vader.runs.lock import RunLock
from vader.runs.metrics_file import ASIDE
from vader.runs.stateful import Registry
from vader.spec import RunSpec, differences
from vader.spec.form import form_problems
from vader.spec.reading import read_source

_SPARE_BYTES = 64 * 2**20


@dataclass
class Entry:
    """A run folder on the way into it. The main process alone has one.

    Args:
        folder: of the run.
        spec: the resolved spec.
        resume: go on from the newest sound checkpoint, or begin when there is none.
        lock: of the folder.
        notice: told what a user should know.
    """

    folder: RunFolder
    spec: RunSpec
    resume: bool
    lock: RunLock
    notice: Callable[[str], None]

    def look(self) -> Checkpoint | None:
        """Judge the folder, before any weight is loaded; nothing in it changes. A run's folder is locked from here on.

        Returns:
            The checkpoint to resume from.

        Raises:
            RunFolderError: it cannot be written or read, has no room, holds something else, another run, or this one
                and ``resume`` is off.
            CheckpointError: optimizer steps were made, and no sound checkpoint holds them.
        """
        try:
            self.folder.require_ours()
            self._require_own_metrics()
            self.folder.require_writable()
            self.folder.require_space(_SPARE_BYTES)
            self.lock.take(create=False)
            return self._found() if self.folder.begun else None
        except RunFolderError:
            raise
        except OSError as error:
            raise _failed(self.folder, error) from error

    def begin(self, found: Checkpoint | None) -> None:
        """Make the folder ready: weights are loaded, and the first optimizer step is near.

        Args:
            found: what :meth:`look` gave.

        Raises:
            RunFolderError: it cannot be written, or another run was here in the meantime.
        """
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            if not self.lock.held:
                self._come_first()
            if not self.folder.begun:
                cleaning.forget(self.folder)
            if found is None:
                self.lock.begin()
            else:
                self.lock.note_checkpoint()
            self.folder.make()
            cleaning.clear(self.folder)
            unread = self.folder.trim_metrics(found.step if found else 0)
            if unread:
                self.notice(f"{unread} lines of {METRICS} could not be read; they are set aside in {ASIDE}.")
            self.folder.write_spec(self.spec)
        except RunFolderError:
            raise
        except OSError as error:
            raise _failed(self.folder, error) from error

    def _require_own_metrics(self) -> None:
        """The files that lines are added to are no links: what those lead to would be changed."""
        for name in (METRICS, ASIDE):
            path = self.folder.path / name
            if path.is_symlink():
                raise RunFolderError(
                    f"output: {str(path)!r} is a link to {cut(str(path.readlink()))}, which is left as it is. "
                    "Put the file itself in its place, or use another folder."
                )

    def _come_first(self) -> None:
        """Take the lock of a folder that had none, and see that no other run has begun there since."""
        begun = self.folder.begun
        self.folder.require_ours()
        self.lock.take(create=True)
        if not begun and self.folder.begun:
            raise RunFolderError(f"output: another run has just begun in {str(self.folder.path)!r}.")

    def _found(self) -> Checkpoint | None:
        """The checkpoint of a run that has begun."""
        folder, spec = self.folder, self.spec
        before = self._require_same_run()
        damaged: list[str] = []
        found = checkpoint.newest(folder.checkpoints, damaged.append)
        if found is None:
            self._require_nothing_lost(damaged)
            self.notice("the run had ended before its first checkpoint; it begins again.")
            return None
        for text in damaged:
            self.notice(text)
        if before is None and not _made_for(found, spec):
            raise RunFolderError(
                f"output: {str(found.path)!r} is of another spec, and {SPEC} is gone. Use another folder."
            )
        for text in changes(before, spec, found.step) if before is not None else ():
            self.notice(text)
        return found

    def _require_nothing_lost(self, damaged: list[str]) -> None:
        """Without a sound checkpoint a run begins again only if it never had one."""
        folder = self.folder
        if not self.lock.has_saved and not damaged:
            return
        steps = [int(record["step"]) for record in folder.read_metrics()]
        made = f"{METRICS} tells of {steps[-1]} optimizer steps" if steps else "a checkpoint was written"
        said = "".join(f"\n  {text}" for text in damaged)
        raise CheckpointError(
            f"{str(folder.path)!r} holds a run that cannot be resumed: {made}, and {CHECKPOINTS} holds no sound "
            f"checkpoint.{said}\nPut its checkpoints back (is a volume not mounted?) and resume; or begin anew in "
            "another folder ('output:' in the spec); or move this one away."
        )

    def _require_same_run(self) -> RunSpec | None:
        """The spec that the run was started with, None if it is gone."""
        folder = self.folder
        if not self.resume:
            raise RunFolderError(
                f"output: {str(folder.path)!r} already holds a run. "
                "Resume it with --resume (resume=True), or choose another folder."
            )
        before = _started_with(folder) if folder.described else None
        changed = differences(before, self.spec) if before is not None else []
        if changed:
            listed = "".join(f"\n  {change}" for change in changed)
            raise RunFolderError(
                f"output: {str(folder.path)!r} holds a run of another spec; resuming would mix them:{listed}\n"
                "Use the spec it was started with, or another folder."
            )
        return before


def _failed(folder: RunFolder, error: OSError) -> RunFolderError:
    named = f" ({error.filename})" if error.filename else ""
    return RunFolderError(
        f"output: {str(folder.path)!r}: {error.strerror or error}{named}. Correct that, then try again."
    )


def _started_with(folder: RunFolder) -> RunSpec:
    """The spec that a run was started with; read as any other, since it may have been edited."""
    try:
        source = read_source(folder.spec)
        return RunSpec.model_validate(source.data)
    except ValidationError as error:
        problem = form_problems(source, error, RunSpec)[0]
    except SpecError as error:
        problem = error.problems[0]
    raise RunFolderError(
        f"output: {str(folder.spec)!r} is not what the run wrote, and no spec now: {problem} "
        "Put it back as it was, or begin in another folder."
    )


def _made_for(found: Checkpoint, spec: RunSpec) -> bool:
    """Whether a checkpoint is of this spec. Earlier versions had two fields in it that are free now."""
    earlier = (
        {"train.processes": processes, "gradient.recompute": recompute}
        for processes in (None, found.processes)
        for recompute in (True, False, "auto")
    )
    return found.digest in (spec.digest(), *map(spec.digest, earlier))


def take_up(found: Checkpoint | None, registry: Registry, spec: RunSpec, engine: Engine) -> int:
    """Restore what a checkpoint keeps, in every process; without one, seed what is random.

    Args:
        found: the checkpoint, None to begin.
        registry: of what is kept.
        spec: of the run.
        engine: of the run.

    Returns:
        Optimizer steps done.

    Raises:
        CheckpointError: it was written for another spec.
    """
    torch.manual_seed(derive(spec.train.seed, "global", engine.process_index))
    if found is None:
        return 0
    if not _made_for(found, spec):
        raise CheckpointError(
            f"{found.path.name} was written for another spec than this folder's. "
            "Remove it, or resume in the folder it comes from."
        )
    checkpoint.restore(found, registry, engine.process_index)
    return found.step
