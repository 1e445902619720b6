"""What a resumption with a changed spec does that its user may not expect, in words."""

from __future__ import annotations

from collections.abc import Iterator

from vader.runs.train_step import learning_rate
from vader.spec import RunSpec


def changes(before: RunSpec, now: RunSpec, step: int) -> Iterator[str]:
    """Notices for what may change on resumption and has consequences.

    Args:
        before: the spec that the run was started, or last resumed, with.
        now: the spec that it goes on with.
        step: optimizer steps done.
    """
    then, train = before.train, now.train
    if train.steps < step:
        yield f"{step} optimizer steps are done, and train.steps is {train.steps} now: no more are made."
    elif then.steps != train.steps and train.schedule != "constant" and step < train.steps:
        reached = learning_rate(then, min(step, then.steps - 1))
        yield (
            f"train.steps was {then.steps} and is {train.steps}: the {train.schedule} schedule stretches with it, and "
            f"the learning rate goes from {reached:.3g} at optimizer step {min(step, then.steps)} to "
            f"{learning_rate(train, step):.3g} at the next. schedule: constant has no such jump."
        )
    changed = [
        f"validation.{name}: {getattr(before.validation, name)!r} then, {getattr(now.validation, name)!r} now"
        for name in type(now.validation).model_fields
        if name not in ("save_clips", "batch_size")
        and getattr(before.validation, name) != getattr(now.validation, name)
    ]
    if changed:
        yield (
            f"validations made until now do not compare with those to come ({'; '.join(changed)}): the report and the "
            "table show those of the new settings alone, so there is no 'before' of the run's beginning."
        )
