"""A backbone names its sampler and how it is set; a spec that says otherwise is heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.fakes import FakeBackbone
from tests.integration.harness import tiny

from vader.resolve.validate import resolve


class Trailing(FakeBackbone):
    """Its checkpoints were trained with trailing timesteps."""

    default_sampler_options: ClassVar[dict[str, Any]] = {"spacing": "trailing", "offset": 0}


HERE = f"{Path(__file__).resolve()}:Trailing"


@pytest.mark.parametrize(
    ("sampler", "spacing", "offset"),
    [
        ({}, "trailing", 0),
        ({"name": "ddim"}, "trailing", 0),
        ({"name": "ddim", "options": {"spacing": "linspace"}}, "linspace", 0),
        ({"options": {"offset": 3}}, "trailing", 3),
        ({"options": {"spacing": None}}, None, 0),
    ],
)
def test_options_are_the_backbones_unless_the_spec_says_otherwise(
    tmp_path: Path, sampler: dict[str, Any], spacing: str | None, offset: int
) -> None:
    plan = resolve(tiny(tmp_path, backbone={"name": HERE}, sampler=sampler))
    assert (plan.sampler.options.spacing, plan.sampler.options.offset) == (spacing, offset)


def test_another_sampler_has_its_own(tmp_path: Path) -> None:
    sampler = {"name": "diffusers", "options": {"scheduler": "DDIMScheduler"}}
    plan = resolve(tiny(tmp_path, backbone={"name": HERE}, sampler=sampler))
    assert plan.sampler.options.scheduler == "DDIMScheduler"
    assert resolve(tiny(tmp_path)).sampler.options.spacing is None
