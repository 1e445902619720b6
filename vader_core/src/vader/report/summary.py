"""What happened, in plain sentences made from the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from vader.report.comparison import Comparison, Score, compare, role_of, score_keys, trained_rewards, trend, values_of
from vader.report.numbers import mean_text, plain
from vader.report.reading import RunData
from vader.report.variety import variety
from vader.report.verdict import Diagnosis, diagnose, evidence_of, reasons
from vader.spec import RolloutSpec


@dataclass(frozen=True)
class Summary:
    """The head of the report."""

    subject: str
    """What was aligned with what."""
    verdict: Diagnosis
    headline: str
    """Did it work? One sentence."""
    details: tuple[str, ...]
    """The same for every other score."""
    warnings: tuple[str, ...]
    """Signs that the result is not what it seems."""
    notices: tuple[str, ...]
    """Shortcuts and mishaps of the run."""
    progress: str | None
    """``unfinished: n of N optimizer steps``; None for a complete run."""


def summarise(run: RunData, comparison: Comparison | None) -> Summary:
    """The head of the report, from the numbers alone."""
    scores = comparison.scores if comparison else ()
    primary = next((score for score in scores if score.role == "trained"), scores[0] if scores else None)
    warnings: list[str] = []
    if comparison and comparison.after and primary:
        found = variety(comparison.pairs)
        evidence = evidence_of(comparison, found, _risen(run, comparison))
        headline = f"{primary.label} on {where(run)} {primary.text.sentence}."
        details = tuple(f"{_name(score)} {score.text.sentence}." for score in scores if score is not primary)
        details += found.sentences if found is not None else ()
        verdict, warnings = diagnose(evidence), reasons(evidence)
    else:
        headline, details = _unpaired(run, comparison)
        verdict = Diagnosis("neutral", "Not measured")
    notices = (*_left_out(run), *_skipped(run))
    return Summary(_subject(run), verdict, headline, details, tuple(warnings), notices, _progress(run))


def judged(run: RunData) -> tuple[Comparison | None, Summary]:
    """The comparison and the head of the report; where a damaged run folder does not let them be made, why."""
    try:
        comparison = compare(run)
        return comparison, summarise(run, comparison)
    except Exception as error:  # numbers that no sentence can be made of
        said = f"{type(error).__name__}: {error}."
        return None, Summary(
            f"run {run.folder.name}", Diagnosis("neutral", "Cannot be judged"), said, (), (), (), _progress(run)
        )


def _subject(run: RunData) -> str:
    if run.spec is None:
        return f"run {run.folder.name}"
    rewards = [
        key if reward.target is None else f"{key} (target {plain(reward.target)})"
        for key, reward in trained_rewards(run).items()
    ]
    return f"{run.spec.backbone.name} aligned with {' + '.join(rewards) or 'no reward'}"


def _progress(run: RunData) -> str | None:
    if run.planned is None or run.step >= run.planned:
        return None
    return f"unfinished: {run.step} of {run.planned} optimizer steps"


def where(run: RunData) -> str:
    """What the validation's prompts are."""
    if run.spec is not None and run.spec.validation.prompts in (None, run.spec.prompts):
        return "the training prompts"
    return "the validation's prompts"


def _name(score: Score) -> str:
    return f"{score.label} (held out: not trained on)" if score.role == "held-out" else score.label


def _unpaired(run: RunData, comparison: Comparison | None) -> tuple[str, tuple[str, ...]]:
    """Headline and details where there is nothing to compare."""
    if comparison:
        step = comparison.before.step
        moment = "before training" if step == 0 else f"after {step} optimizer steps"
        means = [
            f"{key} {mean_text(values_of(comparison.before, key))}"
            for key in score_keys(run)
            if values_of(comparison.before, key)
        ]
        scores = f": mean {', '.join(means)}" if means else ""
        return f"Judged once so far, {moment}, on {where(run)}{scores}.", _training(run)
    training = _training(run)
    if training:
        return training[0], ("There were no validation clips, so nothing tells whether this holds on fixed prompts.",)
    if run.records:
        return "Too few optimizer steps to tell anything.", ()
    return "No optimizer step is finished yet.", ()


def _training(run: RunData) -> tuple[str, ...]:
    course = trend(run, "reward")
    if course is None:
        return ()
    quarter = f"{course.steps} optimizer step{'s' if course.steps != 1 else ''}"
    return (
        f"The training reward went from {plain(course.first)} (mean of the first {quarter}) to "
        f"{plain(course.last)} (mean of the last {course.steps}).",
    )


def _risen(run: RunData, comparison: Comparison) -> list[str]:
    """Training rewards that improved: on validation clips where they judge them, else over the optimizer steps."""
    trained = {score.key: score for score in comparison.scores if score.role == "trained"}
    risen = [f"{score.label} improved" for score in trained.values() if score.progress > 0]
    keys = trained_rewards(run) or {key for key in score_keys(run) if role_of(run, key) == "trained"}
    course = trend(run, "reward")
    all_judged = bool(keys) and set(keys) <= set(trained)
    if not all_judged and course and course.last > course.first:
        risen.append(f"the training reward rose from {plain(course.first)} to {plain(course.last)}")
    return risen


def _left_out(run: RunData) -> tuple[str, ...]:
    """The shortcuts of training's rollouts."""
    if run.spec is None or run.spec.rollout == RolloutSpec():
        return ()
    rollout, said = run.spec.rollout, list[str]()
    if rollout.reuse is not None:
        end = "the gradient window" if rollout.reuse.to_step is None else f"step {rollout.reuse.to_step}"
        said.append(
            f"one prediction for {rollout.reuse.every} steps, from step {rollout.reuse.from_step} to before {end}"
        )
    if rollout.coarse_steps is not None:
        said.append(f"{rollout.coarse_steps} predictions in place of one a step")
    if rollout.guidance_every > 1:
        said.append(f"both guidance branches at one prediction of {rollout.guidance_every}")
    if rollout.cache is not None:
        options = "".join(f", {name} {value}" for name, value in rollout.cache.options.items())
        said.append(f"a cache of blocks ({rollout.cache.name}{options})")
    return (
        f"Before the gradient window training left out denoiser calls: {'; '.join(said)}. "
        "Validation clips were made in full.",
    )


def _skipped(run: RunData) -> tuple[str, ...]:
    steps = [int(record["step"]) for record in run.records if record.get("skipped")]
    if not steps:
        return ()
    named = ", ".join(map(str, steps[:8])) + (", ..." if len(steps) > 8 else "")
    verb = "were" if len(steps) > 1 else "was"
    return (
        f"{len(steps)} of {len(run.records)} optimizer steps {verb} skipped because loss or gradient was not finite: "
        f"{named}.",
    )
