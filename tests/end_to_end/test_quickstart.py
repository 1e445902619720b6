"""The embedded default does what the README says: the base model is sound, and alignment makes it better."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import pytest

import vader
from vader.report.statistics import paired_change
from vader.runs.evaluation import evaluate

SPEC = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
ATTRIBUTES = ("count", "colour", "shape", "motion", "background")


def test_the_base_model_is_honestly_imperfect_on_held_out_prompts() -> None:
    scores: list[dict[str, Any]] = [
        {"name": "shapes_accuracy", "label": name, "options": {"attribute": name}} for name in ("all", *ATTRIBUTES)
    ]
    spec = {
        "backbone": "shapes",
        "sampler": {"steps": 10, "guidance_scale": 3.0},
        "prompts": "shapes",
        "rewards": ["shapes_alignment"],
        "validation": {
            "prompts": {"name": "shapes", "options": {"split": "held_out"}},
            "rewards": scores,
            "clips": 40,
            "batch_size": 20,
        },
    }
    base = evaluate(spec).base
    assert 0.3 <= base.mean("all") <= 0.95
    for name in ATTRIBUTES:
        assert base.mean(name) >= 0.4


def test_in_four_steps_without_guidance_the_variant_for_few_steps_shows_what_the_model_as_trained_does_not() -> None:
    shown = {}
    for variant in (None, "few_steps"):
        spec = {
            "backbone": {"name": "shapes", "options": {"variant": variant}},
            "sampler": {"steps": 4, "guidance_scale": 1.0},
            "prompts": "shapes",
            "rewards": ["shapes_accuracy"],
            "validation": {
                "prompts": {"name": "shapes", "options": {"split": "held_out", "kinds": ["single"]}},
                "clips": 48,
                "batch_size": 24,
            },
        }
        shown[variant] = evaluate(spec).base.mean("shapes_accuracy")
    assert shown["few_steps"] >= shown[None] + 0.15


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> vader.RunResult:
    folder = tmp_path_factory.mktemp("quickstart")
    shorter = ["train.steps=40", "train.batch_size=16", "validation.clips=228", "validation.save_clips=2"]
    return vader.train(SPEC, [*shorter, f"output={folder / 'run'}"])


def test_a_sixth_of_the_quickstart_already_raises_the_reward(result: vader.RunResult) -> None:
    before, after = (
        [clip.scores["shapes_alignment"] for clip in validation.clips]
        for validation in (result.validations[0], result.validations[-1])
    )
    change = paired_change(before, after)
    assert change.interval is not None
    assert change.interval.low > 0


def test_the_run_folder_is_complete(result: vader.RunResult) -> None:
    files = {"spec.yaml", "metrics.jsonl", "environment.json", "report.html"}
    assert {path.name for path in result.folder.iterdir()} >= files | {"adapter", "checkpoints", "samples"}
    report = unescape((result.folder / "report.html").read_text(encoding="utf-8"))
    assert "shapes_alignment on the validation's prompts rose" in report
