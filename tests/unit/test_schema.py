"""The schema of a run spec follows from the option models it is given, and from nothing installed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from vader.errors import BrokenComponent
from vader.plugins import registry
from vader.plugins.registry import Entry
from vader.resolve.installed import option_models
from vader.spec import Options
from vader.spec.schema import run_schema


class Mine(Options):
    """Of a reward."""

    level: float = Field(0.5, description="How much.")


def test_components_are_those_that_are_given() -> None:
    schema = run_schema({"reward": {"mine": Mine, "plain": Options, "broken": None}})
    reward = schema["$defs"]["RewardSpec"]
    assert reward["properties"]["name"]["examples"] == ["mine", "plain", "broken"]
    then = {one["if"]["properties"]["name"]["const"]: one["then"]["properties"]["options"] for one in reward["allOf"]}
    assert then.keys() == {"mine", "plain"}
    assert then["mine"]["properties"]["level"]["description"] == "How much."
    assert then["plain"] == {"type": "object", "additionalProperties": False}
    assert schema["$defs"]["SamplerSpec"]["properties"]["name"]["examples"] == []


def test_a_component_that_fails_to_load_has_no_known_options(monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry.entries

    def load(entry: Entry) -> Any:
        raise BrokenComponent(f"{entry} is broken.")

    monkeypatch.setattr(Entry, "load", load)
    monkeypatch.setattr(registry, "entries", lambda kind: before(kind)[:1])
    models = option_models()
    assert models.keys() == registry.GROUPS.keys()
    assert [*models["sampler"].values()] == [None]


def test_installed_components_have_their_models() -> None:
    models = option_models()
    assert issubclass(models["sampler"]["ddim"] or int, Options)
