"""The contracts as functions: each runs every check and raises one error that says everything that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vader.testing.checks import Failed, Outcome
from vader.testing.subject import Subject


def check_all(subject: Subject) -> list[Outcome]:
    """Run every check of a subject.

    Raises:
        Failed: the contract is broken; names every check that failed.
    """
    outcomes = subject.outcomes()
    broken = [outcome for outcome in outcomes if outcome.broken]
    if broken:
        raise Failed(report(subject, broken))
    return outcomes


def report(subject: Subject, broken: Sequence[Outcome]) -> str:
    """What is said of a broken contract."""
    lines = "".join(f"\n  {outcome.name}: {outcome.message}" for outcome in broken)
    return f"{subject.kind} {subject.title!r} breaks {len(broken)} promise{'s' if len(broken) > 1 else ''}:{lines}"


def check_reward(reward: Any, **arguments: Any) -> list[Outcome]:
    """Check a reward.

    Args:
        reward: a registered name, ``./file.py:Name``, a class, a function or an object.
        arguments: of :class:`Subject`, such as ``options``, ``prompts``, ``expected_failures``.

    Raises:
        Failed: the contract is broken; names every check that failed.
    """
    return check_all(Subject("reward", reward, **arguments))


def check_backbone(backbone: Any, **arguments: Any) -> list[Outcome]:
    """Check a backbone in a tiny configuration; see :func:`check_reward`."""
    return check_all(Subject("backbone", backbone, **arguments))


def check_sampler(sampler: Any, **arguments: Any) -> list[Outcome]:
    """Check a sampler; see :func:`check_reward`."""
    return check_all(Subject("sampler", sampler, **arguments))


def check_prompts(prompts: Any, **arguments: Any) -> list[Outcome]:
    """Check a prompt source; see :func:`check_reward`."""
    return check_all(Subject("prompts", prompts, **arguments))


def check_method(method: Any, **arguments: Any) -> list[Outcome]:
    """Check a method on the kit's own backbone and rewards; see :func:`check_reward`."""
    return check_all(Subject("method", method, **arguments))
