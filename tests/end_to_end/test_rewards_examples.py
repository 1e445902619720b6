"""The examples with real pretrained rewards: a short piece of each already raises its score on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import vader
from vader.runs.events import Validation

EXAMPLES = Path(__file__).parents[2] / "examples"


def scores(validation: Validation, key: str) -> list[float]:
    return [clip.scores[key] for clip in validation.clips]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet", "ocr_text"])
def test_a_short_piece_of_the_example_raises_the_score(name: str, tmp_path: Path) -> None:
    """Same prompts and seeds before and after; the guard is logged, and the adapter has learnt something."""
    shorter = [
        *("train.steps=8", "train.batch_size=4", "train.schedule=constant", "frames.mode=fml", "train.device=cpu"),
        *("validation.clips=8", "validation.batch_size=4", "validation.save_clips=0", f"output={tmp_path / 'run'}"),
    ]
    result = vader.train(EXAMPLES / f"rewards_{name}.yaml", shorter)
    before, after = result.validations[0], result.validations[-1]
    assert [(clip.prompt, clip.seed) for clip in before.clips] == [(clip.prompt, clip.seed) for clip in after.clips]
    assert sum(scores(after, name)) > sum(scores(before, name))
    assert set(before.keys) >= {name, "motion"}
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all(row["skipped"] == 0 and row["grad_norm"] > 0 and row["score/motion"] > 0 for row in rows)
    tensors = load_file(next((tmp_path / "run" / "adapter").glob("*.safetensors")))
    assert all(tensor.abs().max() > 0 for key, tensor in tensors.items() if "lora_B" in key)
