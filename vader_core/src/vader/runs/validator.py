"""The validations of a run: made once for each step, by all processes together, and found again on resumption."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace

from vader.diffusion.conditioning import ConditioningCache
from vader.methods.context import RolloutContext
from vader.resolve.plan import Plan
from vader.runs.engine import Engine
from vader.runs.events import Validation, ValidationClip
from vader.runs.folder import RunFolder, written_size
from vader.runs.hacking import alarms
from vader.runs.random_state import restore_rng_state, rng_state
from vader.runs.validation import chosen, clip_writer, score_clips, write_image
from vader.runs.validation_file import SavedValidation

Progress = Callable[[int, int, int], None]
"""``(step, clips done, clips in all)``, in the main process."""


class Validator:
    """Makes and keeps validations.

    Args:
        plan: of the run.
        engine: of the run.
        context: with the training and the held-out rewards.
        encode: conditioning of prompts.
        folder: of the run.
        progress: told of every clip.
        energy: joules of all processes since it was last asked, in a validation or an optimizer step; None where no
            device tells. Every process calls it.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        context: RolloutContext,
        encode: ConditioningCache,
        folder: RunFolder,
        progress: Progress,
        energy: Callable[[], float | None],
    ) -> None:
        self._plan, self._spec, self._engine, self._context = plan, plan.spec, engine, context
        self._encode, self._folder, self._progress, self._energy = encode, folder, progress, energy
        self._settings = _settings(plan)

    def due(self, step: int) -> bool:
        """Whether there is a validation after ``step`` optimizer steps."""
        every = self._spec.train.validate_every
        regular = every is not None and step % every == 0
        return self._spec.validation.clips > 0 and (step in (0, self._spec.train.steps) or regular)

    def at(self, step: int) -> Validation:
        """The validation after ``step`` optimizer steps, from disk if it is whole there, or made now.

        Random states stay as they are.
        """
        saved = self._folder.read_validation(step)
        if saved is not None and self._usable(saved):
            return saved.validation
        state = rng_state()
        made = self._make(step)
        restore_rng_state(state)
        return made

    def done(self, step: int) -> tuple[Validation, ...]:
        """Every whole validation on disk up to ``step``, in order."""
        try:
            saved = [one.validation for one in self._folder.read_validations() if self._usable(one)]
        except OSError:
            return ()
        return tuple(validation for validation in saved if validation.step <= step)

    def _usable(self, saved: SavedValidation) -> bool:
        """Whether it was made with these settings and nothing of it is lost."""
        keys, clips = set(self._context.rewards), saved.validation.clips
        whole = [clip.index for clip in clips if set(clip.scores) == keys] == list(range(self._spec.validation.clips))
        return saved.sound and whole and saved.settings == self._settings

    def _make(self, step: int) -> Validation:
        engine, spec, video = self._engine, self._spec.validation, self._plan.video
        start = time.perf_counter()
        folder = self._folder.validation(step)
        prompts, seeds = chosen(spec, self._plan.validation_prompts)
        size = spec.batch_size or self._spec.train.batch_size
        fps = video.fps or 8.0
        shape = video.height, video.width
        made: list[ValidationClip] = []
        with self._folder.writing(folder):
            if engine.is_main:
                self._folder.make_validation(step)
            write = clip_writer(folder, fps)
            clips = score_clips(self._context, self._encode, prompts, seeds, size, write, spec.save_clips, engine)
            for clip in clips:
                image = write_image(folder, clip.index, prompts[clip.index], shape) if clip.file else None
                made.append(replace(clip, image=image))
                self._progress(step, len(made), spec.clips)
            made = engine.from_main(made)
            validation = Validation(step, tuple(made), written_size(video.frames, video.height, video.width, fps))
            validation = replace(validation, alarms=alarms(spec.hacking, (*self.done(step - 1), validation)))
            joules = self._energy()
            validation = replace(validation, seconds=time.perf_counter() - start, joules=joules)
            if engine.is_main:
                self._folder.write_validation(validation, self._settings)
        engine.wait()
        self._context.timer.read()
        return validation


def _settings(plan: Plan) -> str:
    """Names everything a validation depends on besides the adapter."""
    spec = plan.spec.said()
    shown = ("save_clips", "batch_size", "hacking")
    spec["validation"] = {key: value for key, value in spec["validation"].items() if key not in shown}
    parts = [spec[key] for key in ("validation", "backbone", "video", "sampler", "rewards", "prompts")]
    parts.append(spec["train"]["ema_decay"])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
