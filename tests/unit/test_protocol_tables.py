"""The tables of capabilities and abilities: complete, and asked by name alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vader.plugins import registry
from vader.protocols import (
    ABILITIES,
    CAPABILITIES,
    Backbone,
    Convertible,
    ExportsNative,
    MetaBuildable,
    Method,
    NamedPromptSets,
    NativeAdapters,
    PromptSource,
    Reward,
    Sampler,
    StartsFromNative,
    ValidatesSpec,
    abilities,
    capabilities_of,
)
from vader.resolve.components import ResolvedComponent

PROTOCOLS: dict[str, type] = {
    "backbone": Backbone,
    "reward": Reward,
    "sampler": Sampler,
    "prompts": PromptSource,
    "method": Method,
}


class Able:
    def score(self, frames: Any, prompts: Any) -> Any:
        """Of nothing."""

    @classmethod
    def meta_init(cls, options: Any, runtime: Any, place: Any) -> Able:
        """Itself."""
        return cls()

    @classmethod
    def import_adapter(cls, options: Any, path: Path) -> tuple[str, Mapping[str, int]]:
        """Something."""
        return str(path), {}


def test_a_capability_that_is_left_out_has_the_default_of_the_table() -> None:
    part = ResolvedComponent("reward", "able", Able)
    found = {name: part.capability(name) for name in capabilities_of("reward")}
    assert found == {
        "differentiable": True,
        "frames": 1,
        "needs_prompt": False,
        "input": "frames",
        "api_version": 1,
    }


def test_a_capability_that_is_said_is_what_is_said() -> None:
    part = ResolvedComponent("reward", "able", type("Latent", (Able,), {"input": "latents", "frames": 3}))
    assert (part.capability("input"), part.capability("frames")) == ("latents", 3)


def test_no_capability_is_asked_for_that_the_table_has_not() -> None:
    with pytest.raises(KeyError, match="diferentiable"):
        ResolvedComponent("reward", "able", Able).capability("diferentiable")


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_class_attributes_of_a_protocol_are_in_the_table(kind: str) -> None:
    said = {name for name, what in PROTOCOLS[kind].__annotations__.items() if str(what).startswith("ClassVar")}
    assert said - {"Options"} <= capabilities_of(kind).keys()


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_default_is_of_its_own_types(name: str) -> None:
    declared = CAPABILITIES[name]
    assert type(declared.default) in declared.types
    assert not declared.choices or declared.default in declared.choices


@pytest.mark.parametrize("kind", registry.GROUPS)
def test_components_here_have_capabilities_of_their_types(kind: str) -> None:
    for entry in registry.entries(kind):
        part = ResolvedComponent(kind, entry.name, entry.load())
        for name, declared in capabilities_of(kind).items():
            assert type(part.capability(name)) in declared.types, (str(entry), name)


def test_an_ability_is_given_or_none() -> None:
    part = ResolvedComponent("backbone", "able", Able)
    reader = part.ability(NativeAdapters)
    assert reader is not None
    assert reader.import_adapter(None, Path("a.pt")) == ("a.pt", {})
    assert part.ability(MetaBuildable) is Able
    assert part.ability(StartsFromNative) is None
    assert part.ability(ExportsNative) is None
    assert part.ability(Convertible) is None


def test_an_ability_belongs_to_kinds() -> None:
    part = ResolvedComponent("reward", "able", Able)
    assert part.ability(MetaBuildable) is Able
    assert part.ability(NativeAdapters) is None
    assert part.ability(NamedPromptSets) is None


def test_every_ability_is_in_the_table() -> None:
    declared = {what for what in vars(abilities).values() if getattr(what, "_is_runtime_protocol", False)}
    assert declared == ABILITIES.keys()


def test_methods_here_validate() -> None:
    validating = [e.name for e in registry.entries("method") if isinstance(e.load(), ValidatesSpec)]
    assert "ddpo" in validating
