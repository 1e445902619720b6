"""The validations of a run: made once for each step, by all processes together, and found again on resumption."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from vader.diffusion.conditioning import ConditioningCache
from vader.methods.context import RolloutContext
from vader.resolve.plan import Plan
from vader.runs import checkpoint
from vader.runs.events import Validation
from vader.runs.validation import chosen, clip_writer, read_validation, score_clips, write_validation
from vader.shapes import Frames

Progress = Callable[[int, int, int], None]
"""``(step, clips done, clips in all)`` of this process."""


class Validator:
    """Makes and keeps validations.

    Args:
        plan: of the run.
        accelerator: accelerate's object.
        context: with the training and the held-out rewards.
        encode: conditioning of prompts.
        samples: folder of the clips and results.
        progress: told of every clip.
    """

    def __init__(
        self,
        plan: Plan,
        accelerator: Accelerator,
        context: RolloutContext,
        encode: ConditioningCache,
        samples: Path,
        progress: Progress,
    ) -> None:
        self._plan, self._spec, self._accelerator, self._context = plan, plan.spec, accelerator, context
        self._encode, self._samples, self._progress = encode, samples, progress
        self._settings = _settings(plan)

    def due(self, step: int) -> bool:
        """Whether there is a validation after ``step`` optimizer steps."""
        every = self._spec.train.validate_every
        regular = every is not None and step % every == 0
        return self._spec.validation.clips > 0 and (step in (0, self._spec.train.steps) or regular)

    def at(self, step: int) -> Validation:
        """The validation after ``step`` optimizer steps, from disk or made now. Random states stay as they are."""
        done = read_validation(self._samples, step, self._settings)
        if done is None:
            state = checkpoint.rng_state()
            done = self._make(step)
            checkpoint.restore_rng_state(state)
        return done

    def done(self, step: int) -> tuple[Validation, ...]:
        """Every validation on disk up to ``step``, in order."""
        steps = sorted(int(path.name.removeprefix("step-")) for path in self._samples.glob("step-*"))
        read = [read_validation(self._samples, one, self._settings) for one in steps if one <= step]
        return tuple(validation for validation in read if validation is not None)

    def _make(self, step: int) -> Validation:
        accelerator, spec = self._accelerator, self._spec.validation
        folder = self._samples / checkpoint.folder_name(step)
        folder.mkdir(exist_ok=True)
        prompts, seeds = chosen(spec, self._plan.validation_prompts)
        mine = list(range(accelerator.process_index, spec.clips, accelerator.num_processes))
        size = spec.batch_size or self._spec.train.batch_size
        write, made_here = clip_writer(folder, spec.save_clips, self._plan.video.fps or 8.0), itertools.count(1)

        def keep(index: int, frames: Frames) -> str | None:
            self._progress(step, next(made_here), len(mine))
            return write(index, frames)

        made = score_clips(self._context, self._encode, prompts, seeds, mine, size, keep)
        clips = sorted(gather_object(made), key=lambda clip: clip.index)
        validation = Validation(step, tuple(clips))
        if accelerator.is_main_process:
            write_validation(folder, validation, self._settings)
        accelerator.wait_for_everyone()
        self._context.timer.read()
        return validation


def _settings(plan: Plan) -> str:
    """Names everything a validation depends on besides the adapter."""
    spec = plan.spec.model_dump(mode="json")
    shown = ("save_clips", "batch_size")
    spec["validation"] = {key: value for key, value in spec["validation"].items() if key not in shown}
    parts = [spec[key] for key in ("validation", "backbone", "video", "sampler", "rewards", "prompts")]
    parts.append(spec["train"]["ema_decay"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
