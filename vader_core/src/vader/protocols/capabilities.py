"""The one table of capabilities: the class attributes that a spec is judged by, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

API_VERSION = 1
"""Version of the protocols. A component may say ``api_version``, the one it was written for; without it any will do."""

KINDS = ("backbone", "reward", "sampler", "prompts", "method")
"""The kinds of component."""


@dataclass(frozen=True)
class Capability:
    """A class attribute.

    Args:
        kinds: the kinds of component that have it.
        types: what its value may be.
        default: what a component gets that leaves it out.
        meaning: in one line.
        required: whether the contract kit insists on it.
        choices: the values it may have; empty for any of its types.
    """

    kinds: tuple[str, ...]
    types: tuple[type, ...]
    default: Any
    meaning: str
    required: bool = False
    choices: tuple[Any, ...] = ()


CAPABILITIES: Mapping[str, Capability] = MappingProxyType(
    {
        "differentiable": Capability(("reward",), (bool,), True, "whether gradients reach what it scores"),
        "frames": Capability(("reward",), (int,), 1, "the least number of frames it can judge"),
        "needs_prompt": Capability(("reward",), (bool,), False, "whether prompts change the score"),
        "input": Capability(("reward",), (str,), "frames", "what it scores", choices=("frames", "latents")),
        "predictions": Capability(
            ("backbone", "sampler"), (tuple,), (), "the kinds of prediction it makes or can integrate", required=True
        ),
        "default_sampler": Capability(
            ("backbone",), (str,), "", "the sampler of a spec that names none", required=True
        ),
        "default_sampler_options": Capability(
            ("backbone",), (dict,), {}, "options of that sampler, where a spec does not set them"
        ),
        "lora_target_modules": Capability(
            ("backbone",), (tuple,), (), "names of the linear layers that carry adapters by default", required=True
        ),
        "gradient_checkpointing": Capability(
            ("backbone",), (bool,), False, "whether enable_gradient_checkpointing works", required=True
        ),
        "denoiser_name": Capability(
            ("backbone",), (str, type(None)), None, "name of the denoiser in its diffusers pipeline, if it has one"
        ),
        "memory_options": Capability(
            ("backbone",), (tuple,), (), "values of its own options that save memory, each a MemoryOption"
        ),
        "published_layers": Capability(
            ("backbone",),
            (dict,),
            {},
            "layer names of the model's authors -> the denoiser's, {} for a number, for adapters of other programs",
        ),
        "experts": Capability(
            ("backbone",), (tuple,), (), "names of the experts that its denoiser routes between, in diffusers' order"
        ),
        "takes_image": Capability(
            ("backbone",),
            (str,),
            "never",
            "whether the clips begin with an image that their prompts have",
            choices=("never", "optional", "required"),
        ),
        "guides_below_1": Capability(
            ("backbone",),
            (bool,),
            True,
            "whether a guidance scale below 1 mixes both branches; else it is off, as 1 is",
        ),
        "stochastic": Capability(
            ("sampler",), (bool,), False, "whether eta above 0 means anything to it", required=True
        ),
        "any_order": Capability(("sampler",), (bool,), False, "whether a step can be taken by itself"),
        "needs_latents": Capability(("method",), (bool,), False, "whether every reward must score latents"),
        "needs_flow": Capability(("method",), (bool,), False, "whether the backbone must predict a flow's velocity"),
        "needs_gradient": Capability(("method",), (bool,), True, "whether every reward must be differentiable"),
        "api_version": Capability(KINDS, (int,), API_VERSION, "the version of the protocols it was written for"),
    }
)
"""Name -> capability."""


def capability(component: Any, name: str) -> Any:
    """A component's capability: its attribute, or the table's default for a component that leaves it out.

    Raises:
        KeyError: the table has no such capability.
    """
    return getattr(component, name, CAPABILITIES[name].default)


def capabilities_of(kind: str) -> dict[str, Capability]:
    """The capabilities of a kind of component, by name."""
    return {name: found for name, found in CAPABILITIES.items() if kind in found.kinds}
