"""What the registry says of the components that are installed, for those who write specs."""

from __future__ import annotations

import json
from collections.abc import Callable

from pydantic import BaseModel

from vader.errors import RegistryError, cut
from vader.plugins import registry
from vader.spec import Options, RunSpec
from vader.spec.schema import OptionModels


def option_models(notice: Callable[[str], None] = lambda text: None) -> OptionModels:
    """The options of every installed component; None for one whose options cannot be had.

    Args:
        notice: told of each of those, and why.
    """
    return {
        kind: {entry.name: option_model(entry, notice) for entry in registry.entries(kind)} for kind in registry.GROUPS
    }


def option_model(entry: registry.Entry, notice: Callable[[str], None]) -> type[BaseModel] | None:
    """The options of one component; :class:`Options` itself for one that takes none, None if they cannot be had."""
    try:
        model = getattr(entry.load(), "Options", None)
        if model is None:
            return Options
        if isinstance(model, type) and issubclass(model, Options):
            json.dumps(model.model_json_schema(), allow_nan=False)
            return model
        why = "its Options is not a vader.Options"
    except RegistryError as error:
        why = str(error)
    except Exception as error:  # a validator, a metaclass or a type of a stranger's
        why = f"{type(error).__name__}: {error}"
    notice(f"the options of {entry} are left out: {cut(why, plain=True)}")
    return None


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
