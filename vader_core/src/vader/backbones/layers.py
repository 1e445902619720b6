"""The first layers of a denoiser as a network of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vader.backbones.parts import class_named
from vader.errors import WeightsError
from vader.weights.meta_init import meta_network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vader.backbones.backbone import FamilyBackbone

_ADAPTED = "base_layer."


@dataclass(frozen=True)
class Layers:
    """Where a denoiser keeps the layers that its tokens pass one after the other.

    Args:
        name: the attribute that lists them; each gives tokens ``(b n d)``, alone or first in a tuple.
        count: what its configuration calls their number.
    """

    name: str = "blocks"
    count: str = "num_layers"


def first_layers(backbone: FamilyBackbone, wanted: int, *, weights: bool = True) -> tuple[nn.Module, nn.Module]:
    """See :meth:`vader.backbones.backbone.FamilyBackbone.trunk`."""
    family = backbone.family
    if family.layers is None:
        raise WeightsError(
            f"the layers of {family.title} cannot be taken apart: its Family says no `layers`, so no latent reward can "
            "be made of them."
        )
    part = family.denoisers[-1]
    config = vars(backbone.configs[part])
    count = int(config[family.layers.count])
    if not 1 <= wanted <= count:
        raise WeightsError(
            f"{wanted} layers are wanted of {family.title}; its denoiser has {count}. Expected 1 to that."
        )
    kind, fewer = class_named(family.modules[part]), {**config, family.layers.count: wanted}
    if not weights:
        network: Any = meta_network(kind, fewer, backbone.runtime.dtype)
    else:
        network = kind.from_config(fewer)
        network.load_state_dict(_weights(backbone, list(network.state_dict())), assign=True)
        network.to(backbone.runtime.device)
    return network.eval(), getattr(network, family.layers.name)[-1]


def _weights(backbone: FamilyBackbone, names: list[str]) -> Mapping[str, Tensor]:
    """Copies of the denoiser's weights by name, without an adapter; of two experts', the one for low noise."""
    experts = getattr(backbone.denoiser, "experts", None)
    denoiser = list(experts.values())[-1] if backbone.family.experts and experts else backbone.denoiser
    held = {name.replace(_ADAPTED, ""): tensor for name, tensor in denoiser.state_dict().items()}
    missing = [name for name in names if name not in held or not held[name].numel()]
    if missing:
        raise WeightsError(
            f"the denoiser's {missing[0]} is not at hand. Set backbone.options.block_offload to keep, and with two "
            "experts expert_offload too."
        )
    if backbone.options.quantize != "none":
        raise WeightsError("layers are not taken from quantised weights. Set backbone.options.quantize to none.")
    return {name: held[name].detach().clone() for name in names}
