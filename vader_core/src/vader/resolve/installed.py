"""What the registry says of the components that are installed, for those who write specs."""

from __future__ import annotations

from pydantic import BaseModel

from vader.errors import RegistryError
from vader.plugins import registry
from vader.spec import Options, RunSpec
from vader.spec.schema import OptionModels


def option_models() -> OptionModels:
    """The options of every installed component; None for one that fails to load."""
    return {kind: {entry.name: _model(entry) for entry in registry.entries(kind)} for kind in registry.GROUPS}


def _model(entry: registry.Entry) -> type[BaseModel] | None:
    try:
        model: type[BaseModel] | None = getattr(entry.load(), "Options", None)
    except RegistryError:
        return None
    return Options if model is None else model


def starting_spec() -> RunSpec:
    """What ``vader init`` shows: the embedded default model when it is installed, else names to fill in."""
    shapes = any(entry.name == "shapes" for entry in registry.entries("backbone"))
    if not shapes:
        return RunSpec.model_validate(
            {"backbone": "wan", "prompts": {"name": "list", "options": {"prompts": ["a prompt"]}}}
        )
    return RunSpec.model_validate(
        {
            "backbone": {"name": "shapes", "adapter": {"rank": 8}},
            "sampler": {"steps": 10, "guidance_scale": 3.0},
            "prompts": {"name": "shapes", "options": {"split": "train"}},
            "rewards": ["shapes_alignment"],
            "train": {"steps": 40, "batch_size": 8, "learning_rate": 3e-3},
            "validation": {
                "prompts": {"name": "shapes", "options": {"split": "held_out"}},
                "rewards": ["shapes_accuracy"],
                "clips": 32,
            },
        }
    )
