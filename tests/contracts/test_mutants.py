"""The kit catches what it is for: every check has a component that is wrong in just that way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contracts import mutants_backbone, mutants_method, mutants_prompts, mutants_reward, mutants_sampler
from tests.contracts.conftest import Install

from vader.testing import Failed, Subject, check_all
from vader.testing.checks import CHECKS, checks_of

OF_KIND: dict[str, Any] = {
    "reward": mutants_reward,
    "backbone": mutants_backbone,
    "sampler": mutants_sampler,
    "prompts": mutants_prompts,
    "method": mutants_method,
}
CASES = [(kind, name) for kind, mutants in OF_KIND.items() for name in mutants.MUTANTS]

BODY = """
from vader import Options
from pydantic import Field, field_validator
{head}
class Mutant:
    class Options(Options):
        level: float = Field(0.3, description="The mean wanted.")
{options}
    def __init__(self, options):
        self.level = options.level
{constructor}
    def score(self, frames, prompts):
        return frames.float().mean(dim=(1, 2, 3, 4))
{body}
"""

COMMON: dict[str, dict[str, str]] = {
    "is_found": {"body": "    score = None"},
    "name_is_valid": {"name": "My-Reward"},
    "import_is_light": {"head": "import jax"},
    "import_stays_offline": {"head": "import socket\nsocket.socket().close()"},
    "options_are_options": {"options": "        model_config = {'extra': 'ignore'}"},
    "options_round_trip": {
        "options": "        @field_validator('level')\n        def grow(cls, value): return value + 1"
    },
    "options_are_documented": {"options": "        silent: int = 0"},
    "signatures_match": {"body": "    def score(self, prompts, frames): return frames.mean(dim=(1, 2, 3, 4))"},
    "capabilities_are_typed": {"body": "    differentiable = 1"},
    "is_constructed": {"constructor": "        raise RuntimeError('no')"},
    "missing_weights_are_said": {"options": "        weights: str = Field('', description='A file.')"},
}
"""Mutants of the checks that every kind shares, as registered rewards: what is put where in :data:`BODY`."""


def failed(subject: Subject) -> list[str]:
    return [outcome.name for outcome in subject.outcomes() if outcome.broken]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_mutant_fails_the_check_it_is_made_for_and_no_other(kind: str, name: str) -> None:
    mutant = OF_KIND[kind].MUTANTS[name]
    declared = getattr(OF_KIND[kind], "EXPECTED", {}).get(name)
    of = getattr(mutant, "of", None)
    assert failed(Subject(kind, mutant, expected_failures=declared, backbone=of)) == [name]


def test_options_that_the_default_sampler_does_not_take_are_found() -> None:
    assert failed(Subject("backbone", mutants_backbone.WrongSamplerOption)) == ["default_sampler_fits"]


@pytest.mark.parametrize("kind", OF_KIND)
def test_what_the_mutants_are_made_from_keeps_the_contract(kind: str) -> None:
    outcomes = check_all(Subject(kind, OF_KIND[kind].Sound))
    assert not [outcome.name for outcome in outcomes if outcome.broken]


@pytest.mark.parametrize("name", COMMON)
def test_a_registered_mutant_fails_the_check_it_is_made_for_and_no_other(name: str, install: Install) -> None:
    parts = {part: COMMON[name].get(part, "") for part in ("head", "options", "constructor", "body")}
    registered = COMMON[name].get("name", "zz_mutant")
    source = BODY.format(**parts)
    install("zz-mutant", f"[vader.rewards]\n{registered} = zz_mutant:Mutant\n", zz_mutant=source, jax="")
    assert failed(Subject("reward", registered)) == [name]


def test_every_check_has_a_mutant() -> None:
    for kind, mutants in OF_KIND.items():
        assert set(checks_of(kind)) == set(mutants.MUTANTS) | set(COMMON)
    assert len(CASES) + len(COMMON) >= 30
    assert set(CHECKS) == set(OF_KIND)


def test_the_error_names_every_broken_promise() -> None:
    with pytest.raises(Failed) as caught:
        check_all(Subject("reward", mutants_reward.Column))
    message = str(caught.value)
    assert message.startswith("reward 'Column' breaks 1 promise:\n  scores_have_the_shape: 1 clips give scores")
    assert "expected (1,)" in message


class TestExpectedFailures:
    def test_are_no_failures(self) -> None:
        declared = {"needs_prompt_is_true": "the prompts of the kit mean nothing to it"}
        subject = Subject("reward", mutants_reward.Boastful, expected_failures=declared)
        assert failed(subject) == []
        assert subject.outcome("needs_prompt_is_true").status == "expected"

    def test_that_hold_after_all_are_failures(self) -> None:
        declared = {"scores_have_the_shape": "no reason"}
        subject = Subject("reward", mutants_reward.Sound, expected_failures=declared)
        assert failed(subject) == ["scores_have_the_shape"]
        assert "Remove the declaration" in subject.outcome("scores_have_the_shape").message

    def test_of_no_check_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no check of a reward is called speed"):
            Subject("reward", mutants_reward.Sound, expected_failures={"speed": "it is slow"})
