"""``vader.evaluate``: a model scored on a spec's validation prompts, with its adapter and without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

from vader.errors import Problem, SpecError
from vader.paths import user_path
from vader.resolve.validate import Spec
from vader.runs.events import Validation
from vader.runs.long_prompts import long_prompts
from vader.runs.session import Session, open_session
from vader.runs.validation import chosen, clip_writer, score_clips


@dataclass(frozen=True)
class Evaluation:
    """The same prompts and seeds scored twice. ``adapted`` is None when there is no adapter."""

    base: Validation
    adapted: Validation | None


def evaluate(
    source: Spec,
    *,
    adapter: str | Path | None = None,
    adapter_scale: float = 1.0,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notice: Callable[[str], None] = warn,
) -> Evaluation:
    """Score a model by the training and held-out rewards of a spec, on its validation prompts and seeds.

    The processes that a launcher has started share the clips; the main one writes them, and all return the same.

    Args:
        source: a spec in any form, or the path of a run folder (with its adapter).
        adapter: an adapter's folder or .safetensors file, in place of the run's own.
        adapter_scale: of the adapter's update.
        output: folder for the clips, in ``base/`` and ``adapted/``; None writes none.
        overrides: dotted ``path=value`` strings.
        trust_code: run code that a spec in a file, or another user's run folder, names outside its folder.
        progress: called, in the main process, with clips done and clips in all.
        notice: called, in the main process, with what a user should know of the prompts: that some are cut.

    Raises:
        SpecError: the spec is wrong, or turns validation off.
        WeightsError: weights or adapter cannot be loaded.
    """
    session = open_session(source, overrides, adapter, scored=True, trust_code=trust_code)
    if session.plan.spec.validation.clips == 0:
        raise SpecError([Problem("validation.clips", "0 turns validation off; evaluation needs 1 or more.")])
    folder = user_path(output) if output is not None else None
    long = long_prompts(chosen(session.plan.spec.validation, session.plan.validation_prompts)[0], session.readers)
    if long is not None and session.engine.is_main:
        notice(long)
    rounds = 1 if session.adapter is None else 2
    total = rounds * session.plan.spec.validation.clips

    def scored(name: str, scale: float, done: int) -> Validation:
        session.set_scale(scale)
        return _score(session, folder / name if folder is not None else None, lambda n: progress(done + n, total))

    with session.engine.watched():
        base = scored("base", 0.0, 0)
        if session.adapter is None:
            return Evaluation(base, None)
        return Evaluation(base, scored("adapted", adapter_scale, len(base.clips)))


def _score(session: Session, folder: Path | None, progress: Callable[[int], None]) -> Validation:
    spec = session.plan.spec.validation
    prompts, seeds = chosen(spec, session.plan.validation_prompts)
    size = spec.batch_size or session.plan.spec.train.batch_size
    if folder is not None and session.engine.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    write = clip_writer(folder or Path(), session.plan.video.fps or 8.0)
    shown = spec.save_clips if folder is not None else 0
    clips = []
    for clip in score_clips(session.context, session.encode, prompts, seeds, size, write, shown, session.engine):
        clips.append(clip)
        progress(len(clips))
    return Validation(0, tuple(session.engine.from_main(clips)))
