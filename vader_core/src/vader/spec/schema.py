"""JSON schema of the run spec with the options of components, so that an editor completes the YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from vader.spec.options import Options
from vader.spec.run import RunSpec

OptionModels = Mapping[str, Mapping[str, type[BaseModel] | None]]
"""Kind -> name -> the model of a component's options; :class:`Options` itself for one that takes none, None for one
whose options are not known."""

_PLACES = {
    "BackboneSpec": "backbone",
    "SamplerSpec": "sampler",
    "RewardSpec": "reward",
    "ScoreSpec": "reward",
}
"""Definition in the schema -> kind of component. Prompts and methods share a definition and are told apart below."""


def run_schema(models: OptionModels) -> dict[str, Any]:
    """The schema.

    Args:
        models: the options of every component that is to be known.
    """
    schema = RunSpec.model_json_schema()
    definitions = schema["$defs"]
    for kind in ("prompts", "method"):
        definition = f"{kind.title()}Spec"
        definitions[definition] = {**definitions["ComponentSpec"], "title": definition}
        _add_options(definitions[definition], models.get(kind, {}))
    for definition, kind in _PLACES.items():
        _add_options(definitions[definition], models.get(kind, {}))
    properties, validation = schema["properties"], definitions["ValidationSpec"]["properties"]
    for place, name in ((properties, "prompts"), (properties, "method"), (validation, "prompts")):
        described = {key: place[name][key] for key in ("description",) if key in place[name]}
        place[name] = {**_either_name("prompts" if name == "prompts" else "method"), **described}
    for name, definition in (("backbone", "BackboneSpec"), ("sampler", "SamplerSpec")):
        properties[name] = {**_short(definition), "description": properties[name].get("description", "")}
    for place, definition in ((properties, "RewardSpec"), (validation, "ScoreSpec")):
        place["rewards"] = {**place["rewards"], "items": _short(definition)}
    return schema


def _either_name(kind: str) -> dict[str, Any]:
    return _short(f"{kind.title()}Spec")


def _short(definition: str) -> dict[str, Any]:
    """A component in full, or its name alone."""
    return {"anyOf": [{"$ref": f"#/$defs/{definition}"}, {"type": "string"}]}


def _add_options(definition: dict[str, Any], models: Mapping[str, type[BaseModel] | None]) -> None:
    """Known names as examples, and for each the schema of its options."""
    definition["properties"]["name"]["examples"] = list(models)
    definition["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "then": {"properties": {"options": _schema_of(model)}},
        }
        for name, model in models.items()
        if model is not None
    ]


def _schema_of(model: type[BaseModel]) -> dict[str, Any]:
    if model is Options:
        return {"type": "object", "additionalProperties": False}
    return inlined(model.model_json_schema())


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references of its own, so that it can stand inside another."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any, inside: tuple[str, ...] = ()) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                name = reference.rsplit("/", 1)[-1]
                return {} if name in inside else resolve(definitions[name], (*inside, name))  # it contains itself
            return {key: resolve(value, inside) for key, value in node.items()}
        return [resolve(value, inside) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(schema)
    return resolved
