"""How the batches of an optimizer step are shared out among processes, of whom a resumption may have another number.

An optimizer step has ``gradient_accumulation`` batches for each process that the run began with. Resumed by another
number of processes it has as many: each makes more of them, or fewer. Prompts and noise are drawn by clip; what a
micro-step draws (its window, its frames) is drawn for as many neighbouring batches as there were processes at first.
"""

from __future__ import annotations

from dataclasses import dataclass

from vader.errors import CheckpointError
from vader.runs.checkpoint import Checkpoint
from vader.spec import TrainSpec


@dataclass(frozen=True)
class StepShares:
    """What a process does of an optimizer step.

    Args:
        accumulation: its micro-steps.
        first_processes: of the run as it began.
    """

    accumulation: int
    first_processes: int

    def draw(self, batch: int) -> int:
        """Which of the optimizer step's draws a batch has. Batch ``micro * processes + rank`` is that of a process."""
        return batch // self.first_processes


def step_shares(spec: TrainSpec, processes: int, found: Checkpoint | None, *, in_step: bool = False) -> StepShares:
    """How the batches are shared out now.

    Args:
        spec: of the run.
        processes: of the run now.
        found: the checkpoint it goes on from; None to begin.
        in_step: all processes must have the same draw at a time, because they share out weights.

    Raises:
        CheckpointError: this number of processes cannot share them evenly, or not in step.
    """
    if found is None:
        return StepShares(spec.gradient_accumulation, processes)
    first = found.first_processes
    batches = first * spec.gradient_accumulation
    if batches % processes:
        fitting = ", ".join(str(number) for number in range(1, batches + 1) if batches % number == 0)
        raise CheckpointError(
            f"{found.path.name} is of a run with {batches} batches of train.batch_size = {spec.batch_size} in an "
            f"optimizer step ({first} processes, train.gradient_accumulation = {spec.gradient_accumulation}); "
            f"{processes} processes cannot have equally many of them. Resume with one of {fitting} processes."
        )
    if in_step and first % processes:
        raise CheckpointError(
            f"{found.path.name} is of a run begun by {first} processes, which drew their windows together; of "
            f"{processes} processes some would have another window than others, and those that share out weights "
            f"(train.sharding) cannot. Resume with a number that divides {first}, or with strategy: none."
        )
    return StepShares(batches // processes, first)


def require_whole_round(found: Checkpoint | None, processes: int, inner_epochs: int) -> None:
    """Another number of processes goes on where a method makes new clips.

    Args:
        found: the checkpoint that the run goes on from; None to begin.
        processes: of the run now.
        inner_epochs: optimizer steps that the method takes on the same clips.

    Raises:
        CheckpointError: it lies between optimizer steps that use the same clips.
    """
    if found is not None and processes != found.processes and found.step % inner_epochs:
        raise CheckpointError(
            f"{found.path.name} lies between two of the {inner_epochs} optimizer steps that use the same clips "
            f"(method.options.inner_epochs), which its {found.processes} processes have made; this run has "
            f"{processes}. Resume with {found.processes}, or with a checkpoint_every that {inner_epochs} divides."
        )


def said(spec: TrainSpec, processes: int, found: Checkpoint | None, shares: StepShares) -> str | None:
    """What a user should know of a resumption by another number of processes; None for nothing."""
    if found is None or found.processes == processes:
        return None
    clips = shares.accumulation * processes * spec.batch_size
    return (
        f"{found.path.name} was written by {found.processes} process{'es' if found.processes > 1 else ''}; the run "
        f"goes on with {processes}. An optimizer step has {clips} clips as before, the same ones, with "
        f"{shares.accumulation} micro-steps in each process. What dropout leaves out is drawn anew."
    )
