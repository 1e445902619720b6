"""Runs of two rewards on different scales, normalised: where they end, and that they go on exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from tests.integration.harness import BRIGHTNESS, At, Crash, adapter, assert_same_run, crash, records, tiny
from torch import Tensor

import vader
from vader.errors import SpecError


class Redness:
    """How much redder than blue a clip is, in units of ``unit``."""

    class Options(vader.Options):
        """Options of :class:`Redness`."""

        unit: float = Field(1.0, description="What its scores are multiplied by.")

    def __init__(self, options: Any) -> None:
        self._unit: float = options.unit

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f c h w)`` in [0, 1] -> ``(b,)``."""
        return self._unit * (frames[:, :, 0] - frames[:, :, 2]).mean(dim=(1, 2, 3))


REDNESS = f"{Path(__file__).resolve()}:Redness"


def run(output: Path, unit: float, **redness: Any) -> dict[str, Any]:
    red = {"name": REDNESS, "label": "redness", "options": {"unit": unit}, **redness}
    changes = {"train": {"validate_every": 2}, "validation": {"clips": 4, "save_clips": 0}}
    made = tiny(output, rewards=[{"name": BRIGHTNESS, "label": "brightness"}, red], **changes)
    made["backbone"]["adapter"]["dropout"] = 0.0
    return made


@pytest.mark.parametrize("normalize", ["base", "running"])
def test_a_hundredfold_scale_ends_where_the_rescaled_one_does(tmp_path: Path, normalize: str) -> None:
    one, hundred = (vader.train(run(tmp_path / str(unit), unit, normalize=normalize)) for unit in (1.0, 100.0))
    first, second = adapter(one.folder / "adapter"), adapter(hundred.folder / "adapter")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)
    for plain, scaled in zip(records(one.folder), records(hundred.folder), strict=True):
        assert scaled["score/redness"] == pytest.approx(100 * plain["score/redness"], rel=1e-3)
        assert scaled["normalized/redness"] == pytest.approx(plain["normalized/redness"], rel=1e-3, abs=1e-4)
        assert "normalized/brightness" not in plain
    plain = vader.train(run(tmp_path / "plain", 100.0))
    far = [(adapter(plain.folder / "adapter")[name] - tensor).abs().max() for name, tensor in first.items()]
    assert max(map(float, far)) > 1e-2, "without a scale the hundredfold reward decides"


def test_a_normalised_score_is_in_spreads_of_the_first_validation(tmp_path: Path) -> None:
    made = vader.train(run(tmp_path / "run", 100.0, normalize="base"))
    base = [clip.scores["redness"] for clip in made.validations[0].clips]
    mean = math.fsum(base) / len(base)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in base) / len(base))
    for record in records(made.folder):
        assert record["normalized/redness"] == pytest.approx((record["score/redness"] - mean) / spread)
        assert record["reward"] == pytest.approx(record["score/brightness"] + record["normalized/redness"], rel=1e-5)


@pytest.mark.parametrize("normalize", ["base", "running"])
def test_scales_are_kept_and_the_run_goes_on_exactly(tmp_path: Path, normalize: str) -> None:
    terms = {"normalize": normalize, "threshold": 40.0}
    whole = vader.train(run(tmp_path / "whole", 100.0, **terms))
    with pytest.raises(Crash):
        vader.train(run(tmp_path / "broken", 100.0, **terms), listeners=[At(5, crash)])
    made = vader.train(run(tmp_path / "broken", 100.0, **terms), resume=True)
    assert made.step == 6
    assert_same_run(tmp_path / "broken", whole.folder)
    states = [
        torch.load(tmp_path / name / "checkpoints/step-000006/optimizer.pt", weights_only=True)["scales"]
        for name in ("whole", "broken")
    ]
    assert states[0] == states[1]
    assert states[0]["redness"]["variance"] > 0


def test_a_reward_without_a_spread_is_refused_by_name(tmp_path: Path) -> None:
    spec = run(tmp_path / "run", 0.0, normalize="base")
    with pytest.raises(SpecError, match=r"rewards\.1\.normalize: the 4 scores .* 'redness' cannot be divided"):
        vader.train(spec)
