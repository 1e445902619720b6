"""Rewards inside a run: two of them train, both raw scores are logged; real names fail at the download alone."""

import json
import math
from pathlib import Path

import pytest
import yaml

import vader
from vader import WeightsError

ROOT = Path(__file__).resolve().parents[3]


def spec(folder, rewards):
    return {
        "backbone": {"name": f"{ROOT / 'tests' / 'fakes.py'}:FakeBackbone", "adapter": {"rank": 2}},
        "video": {"frames": 2, "height": 16, "width": 24},
        "sampler": {"steps": 2},
        "prompts": {"name": "set", "options": {"sets": ["animals", "rain"]}},
        "rewards": rewards,
        "train": {"steps": 3, "batch_size": 2, "learning_rate": 0.01, "device": "cpu"},
        "validation": {"rewards": ["jpeg_size"], "clips": 2, "save_clips": 0},
        "output": str(folder),
    }


def test_aesthetic_and_hps_train(tmp_path, options):
    """The reference's aesthetic_hps: (1.5 * 0.1 |aesthetic - 10| + 1 - hps) / 2."""
    rewards = [
        {"name": "aesthetic", "weight": 0.075, "target": 10.0, "options": options["aesthetic"]},
        {"name": "hps", "weight": 0.5, "options": options["hps"]},
    ]
    result = vader.train(spec(tmp_path / "run", rewards))
    assert result.step == 3
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if any("aesthetic" in key for key in row)]
    assert len(steps) >= 3
    for name in ("aesthetic", "hps"):
        logged = [value for row in steps for key, value in row.items() if name in key]
        assert logged
        assert all(math.isfinite(value) for value in logged if isinstance(value, float))


def test_real_names_fail_at_the_download_alone(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    wanted = spec(tmp_path / "run", [{"name": "aesthetic", "weight": 0.075, "target": 10.0}, {"name": "hps"}])
    vader.check(wanted)
    with pytest.raises(WeightsError, match=r"hf download trl-lib/ddpo-aesthetic-predictor aesthetic-model\.pth"):
        vader.train(wanted)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("rewards_*.yaml")), ids=lambda path: path.name)
def test_examples_are_sound(path):
    pytest.importorskip("vader_shapes")
    vader.check(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_examples_exist():
    assert {path.name for path in (ROOT / "examples").glob("rewards_*.yaml")} >= {
        "rewards_aesthetic_hps.yaml",
        "rewards_imagenet.yaml",
        "rewards_ocr_text.yaml",
    }
