"""When a run has learnt what it can: its held-out score no longer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vader.runs.events import Validation
from vader.spec import EarlyStopSpec, RunSpec


def best(spec: EarlyStopSpec, validations: Sequence[Validation]) -> Validation:
    """The validation with the highest mean score; the first of equals. At least one is given."""

    def score(validation: Validation) -> float:
        values = [clip.scores.get(spec.score, math.nan) for clip in validation.clips]
        mean = math.fsum(values) / max(1, len(values))
        return mean if math.isfinite(mean) else -math.inf

    return max(validations, key=score)


def best_of_run(spec: RunSpec, validations: Sequence[Validation]) -> Validation:
    """The best validation of a run: by the score of ``train.early_stop``, without it by what the run trains for."""
    if spec.train.early_stop is not None:
        return best(spec.train.early_stop, validations)

    def reward(validation: Validation) -> float:
        terms = [
            one.weight * (score if one.target is None else -abs(score - one.target))
            for clip in validation.clips
            for one in spec.rewards
            if (score := clip.scores.get(one.key)) is not None
        ]
        mean = math.fsum(terms) / max(1, len(validation.clips))
        return mean if math.isfinite(mean) else -math.inf

    return max(validations, key=reward)


def exhausted(spec: EarlyStopSpec, validations: Sequence[Validation]) -> bool:
    """Whether the last ``patience`` validations, in order of steps, brought no new best."""
    highest = best(spec, validations).step
    return sum(validation.step > highest for validation in validations) >= spec.patience
