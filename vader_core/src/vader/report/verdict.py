"""Did it work? Every score, diversity, divergence and the alarms of the guard, in a few plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vader.report.comparison import Comparison, Score
from vader.report.numbers import percent, plain
from vader.report.variety import COLLAPSED, Variety
from vader.runs.events import Alarm

Kind = Literal["good", "bad", "mixed", "neutral"]
SMALL = 0.2
"""A change below this many standard deviations of the scores before is small (Cohen 1988), however certain."""


@dataclass(frozen=True)
class Diagnosis:
    """The outcome in a few words, and whether that is good news."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Evidence:
    """What a verdict is made from."""

    scores: tuple[Score, ...]
    variety: Variety | None
    alarms: tuple[Alarm, ...]
    """Of the validation after."""
    risen: tuple[str, ...]
    """How trained rewards improved, one phrase each."""

    @property
    def held_out(self) -> list[Score]:
        """The scores that were not trained on."""
        return [score for score in self.scores if score.role == "held-out"]

    @property
    def better(self) -> list[str]:
        """What improved."""
        return [score.key for score in self.scores if score.progress > 0]

    @property
    def worse(self) -> list[str]:
        """What got worse."""
        found = [score.key for score in self.scores if score.progress < 0]
        if self.variety is not None:
            found += ["diversity"] if self.variety.collapsed else []
            found += ["likeness to the base model"] if self.variety.drifted else []
        return found

    @property
    def deceived(self) -> list[Score]:
        """Held-out scores that fell, more than a little, while a trained reward rose."""
        return [score for score in self.held_out if score.progress < 0 and not small(score)] if self.risen else []

    @property
    def confirmed(self) -> bool:
        """Whether a score that was not trained on says that the clips got better."""
        return any(score.progress > 0 for score in self.held_out)

    @property
    def hacked(self) -> bool:
        """Whether the reward rose, or the guard gave alarm, and no score that was held out speaks for the clips."""
        if self.alarms and self.worse:
            return True
        collapsed = self.variety is not None and self.variety.collapsed
        suspect = self.alarms or (self.risen and (self.deceived or collapsed))
        return bool(suspect) and not self.confirmed


def diagnose(evidence: Evidence) -> Diagnosis:
    """The verdict on a run that was judged before and after."""
    better, worse = evidence.better, evidence.worse
    if evidence.hacked:
        return Diagnosis("bad", "Hacked")
    if evidence.alarms:
        return Diagnosis("mixed", f"Better in {_listed(better)}, possibly hacked")
    if better and worse:
        return Diagnosis("mixed", f"Better in {_listed(better)}, worse in {_listed(worse)}")
    if worse:
        return Diagnosis("bad", f"Worse in {_listed(worse)}")
    if better:
        return _improved(evidence)
    if not any(score.change.interval for score in evidence.scores):
        return Diagnosis("neutral", "Too few clips to tell")
    return Diagnosis("neutral", "No measurable change")


def _improved(evidence: Evidence) -> Diagnosis:
    """Something improved and nothing got worse."""
    risen = [score for score in evidence.scores if score.progress > 0]
    if evidence.held_out and all(score.role == "trained" for score in risen):
        still = _listed([score.key for score in evidence.held_out])
        return Diagnosis("mixed", f"Better in {_listed(evidence.better)}, unchanged in {still}")
    return Diagnosis("good", "Slightly better" if all(map(small, risen)) else "Better")


def reasons(evidence: Evidence) -> list[str]:
    """What speaks against trusting the reward, one sentence each."""
    said = [f"Alarm: {alarm.text}" for alarm in evidence.alarms]
    rise = " and ".join(evidence.risen)
    for score in evidence.deceived:
        verb = "fell" if score.change.direction < 0 else "rose"
        said.append(f"{rise}, while {score.label}, which is held out, {verb} significantly ({score.text.difference}).")
    variety = evidence.variety
    if variety is not None and variety.collapsed:
        before, after = plain(variety.diversity.before, 3), plain(variety.diversity.after, 3)
        said.append(
            f"The clips have come to look alike: their mean distance from each other fell from {before} to {after}, "
            f"below {percent(COLLAPSED)} of the base model's."
        )
    if variety is not None and variety.drifted:
        said.append("The clips are farther from the base model's of the same prompts and seeds than those are apart.")
    if said:
        said[-1] += (
            " Look at the clips before you trust the reward; fewer optimizer steps, a lower learning rate, kl_weight "
            "or a second reward may help."
        )
    return said


def evidence_of(comparison: Comparison, variety: Variety | None, risen: Sequence[str]) -> Evidence:
    """What a comparison tells."""
    alarms = comparison.after.alarms if comparison.after else ()
    return Evidence(comparison.scores, variety, alarms, tuple(risen))


def small(score: Score) -> bool:
    """Whether a change is small."""
    return score.change.gain is not None and abs(score.change.gain) < SMALL


def _listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
