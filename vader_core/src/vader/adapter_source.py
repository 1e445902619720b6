"""Where an adapter starts from: what its file says of it, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vader.parts import Part
from vader.spec import AdapterSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.protocols import Backbone


def shape_of(backbone: Part, path: Path) -> AdapterSpec:
    """Rank, alpha and target modules of a saved adapter, in the backbone's own format or in peft's or diffusers'.

    Raises:
        WeightsError: there is no adapter, or none that can be read.
    """
    from vader import adapters

    own = backbone.capability("adapter_spec", None)
    found: AdapterSpec | None = own(path) if own is not None and path.is_file() else None
    return found.model_copy(update={"init": str(path)}) if found is not None else adapters.spec_of(path)


def foreign_state(part: Part, backbone: Backbone, path: Path | None) -> Mapping[str, Tensor] | None:
    """The tensors of an adapter in the backbone's own format; None for one in peft's or diffusers', or none at all.

    Raises:
        WeightsError: it is of another model.
    """
    own = part.capability("adapter_spec", None)
    if own is None or path is None or not path.is_file() or own(path) is None:
        return None
    return cast("Mapping[str, Tensor]", cast(Any, backbone).adapter_state(path))
