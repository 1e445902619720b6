"""The contracts as pytest classes: subclass one, give its fixture, and every check is a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, ClassVar

import pytest

from vader.testing.checks import Check, checks_of
from vader.testing.subject import Subject, as_subject


class _Contract:
    """What the contracts share.

    Class attributes:
        expected_failures: check -> the reason why it cannot hold; a declared check that holds is a failure.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}
    kind: ClassVar[str] = ""
    _subjects: ClassVar[dict[Hashable, Subject]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls._subjects = {}

    def _judge(self, value: Any, name: str) -> None:
        fresh = as_subject(self.kind, value, self.expected_failures)
        subject = type(self)._subjects.setdefault(fresh.key, fresh)
        outcome = subject.outcome(name)
        if outcome.status == "not applicable":
            pytest.skip(outcome.message)
        if outcome.status == "expected":
            pytest.xfail(outcome.message)
        if outcome.broken:
            pytest.fail(f"{outcome.promise}\n{self.kind} {subject.title!r}: {outcome.message}", pytrace=False)


def _test(fixture: str, check: Check) -> Callable[..., None]:
    """A test method that asks for a fixture and judges what it gives by one check."""

    def test(self: _Contract, **fixtures: Any) -> None:
        self._judge(fixtures[fixture], check.name)

    kinds = inspect.Parameter
    test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [kinds("self", kinds.POSITIONAL_OR_KEYWORD), kinds(fixture, kinds.POSITIONAL_OR_KEYWORD)]
    )
    test.__name__, test.__doc__ = f"test_{check.name}", check.promise
    return test


def _with_tests(fixture: str, kind: str) -> Callable[[type[_Contract]], type[_Contract]]:
    """Give a contract one test for each check of its kind."""

    def add(contract: type[_Contract]) -> type[_Contract]:
        contract.kind = kind
        for name, check in checks_of(kind).items():
            setattr(contract, f"test_{name}", _test(fixture, check))
        return contract

    return add


@_with_tests("reward", "reward")
class RewardContract(_Contract):
    """What a reward promises. Give the fixture ``reward``."""


@_with_tests("backbone", "backbone")
class BackboneContract(_Contract):
    """What a backbone promises. Give the fixture ``backbone``; it is built once for a class."""


@_with_tests("sampler", "sampler")
class SamplerContract(_Contract):
    """What a sampler promises. Give the fixture ``sampler``."""


@_with_tests("prompts", "prompts")
class PromptSourceContract(_Contract):
    """What a prompt source promises. Give the fixture ``prompts``."""


@_with_tests("method", "method")
class MethodContract(_Contract):
    """What a method promises. Give the fixture ``method``."""
