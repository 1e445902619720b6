"""A spec is judged in one place: every judgement speaks at once, and a dry run goes through the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.harness import PROMPT_LENGTH, command, tiny

import vader
from vader.errors import SpecError
from vader.resolve.validate import resolve

WRONG: dict[str, Any] = {
    "gradient": {"mode": "tail", "k": 9},
    "frames": {"mode": "index", "index": 7},
    "rewards": [{"name": PROMPT_LENGTH}],
    "train": {"mixed_precision": "fp16"},
    "backbone": {"adapter": {"init": "not-there"}},
    "validation": {"prompts": {"name": "list", "options": {"prompts": []}}},
}
"""Something for every judgement."""

BY_THE_SPEC = {"gradient.k"}
BY_COMPONENTS = {
    "frames.index",
    "rewards.0.name",
    "backbone.adapter.init",
    "validation.prompts.options.prompts",
}
BY_THE_MACHINE = {"train.mixed_precision"}


def mistakes(call: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        call()
    return [problem.path for problem in caught.value.problems]


def test_every_judgement_speaks_at_once(tmp_path: Path) -> None:
    found = mistakes(lambda: vader.train(tiny(tmp_path / "run", **WRONG)))
    assert sorted(found) == sorted(BY_THE_SPEC | BY_COMPONENTS | BY_THE_MACHINE)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_the_same_but_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tiny(tmp_path / "run", **WRONG)
    assert sorted(mistakes(lambda: vader.check(spec))) == sorted(BY_THE_SPEC | BY_COMPONENTS)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(spec))
    code, _, err = command(monkeypatch, capsys, "train", tmp_path / "run.yaml", "--dry-run")
    assert code == 2
    assert all(f"  {path} (line " in err for path in BY_THE_SPEC | BY_COMPONENTS)


def test_a_plan_holds_what_was_judged(tmp_path: Path) -> None:
    plan = resolve(tiny(tmp_path / "run"), ["sampler.steps=2"], here=True)
    assert (plan.spec.sampler.steps, plan.sampler.name, plan.method.name) == (2, "ddim", "reward_gradient")
    assert (plan.video.frames, list(plan.rewards), plan.held_out, plan.initial_adapter) == (3, ["brightness"], {}, None)
    assert plan.validation_prompts is plan.prompts
