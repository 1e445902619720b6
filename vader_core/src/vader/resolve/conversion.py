"""What a backbone converts: its published checkpoint, and adapters between its own format and peft's."""

from __future__ import annotations

from pathlib import Path

import torch

from vader import storage
from vader.errors import RegistryError, WeightsError
from vader.protocols import Convertible, ExportsNative
from vader.resolve.adapter_source import foreign
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.conversion import DTYPES, Conversion, new_file
from vader.weights.files import PICKLED, SAFETENSORS


def convert_adapter(backbone: ResolvedComponent, source: Path, target: Path) -> AdapterSpec:
    """An adapter in another format.

    Args:
        backbone: whose adapter it is; its options may name the weights that it was made for.
        source: an adapter in the backbone's own format, in peft's or in diffusers'.
        target: new. A name that ends as ``torch.save``'s files do gets the backbone's own format; any other is a
            folder in peft's layout and, where diffusers can load it, in diffusers' as well.

    Returns:
        What the adapter is, its alpha as trained.

    Raises:
        WeightsError: the source cannot be read, the target exists, or the backbone has no format of its own.
    """
    found = foreign(backbone, source)
    spec, state = found if found is not None else (lora.spec_of(source), lora.read(source)[0])
    size = sum(tensor.nbytes for tensor in state.values())
    if target.suffix.lower() in PICKLED:
        exporter = backbone.ability(ExportsNative)
        if exporter is None:
            raise WeightsError(
                f"backbone {backbone.name!r} has no adapter format of its own, so {str(target)!r} cannot be written. "
                "Give a folder: it gets peft's layout."
            )
        exported = exporter.export_adapter(backbone.options, spec, state)
        with new_file(target, size) as temporary, temporary.open("wb") as file:
            torch.save(exported, file)
            storage.sync(file)
        return spec
    if target.suffix.lower() == SAFETENSORS:
        raise WeightsError(f"{str(target)!r} is the name of a file; expected that of a new folder, or one in .pt.")
    with new_file(target, 2 * size) as temporary:
        temporary.mkdir()
        lora.write(temporary, state, spec, backbone.capability("denoiser_name"))
    return spec


def conversion_of(backbone: ResolvedComponent, dtype: str | None) -> Conversion:
    """The checkpoint that a backbone's options name, as it is to be written.

    Raises:
        RegistryError: the backbone converts no weights.
        WeightsError: the checkpoint cannot be read.
    """
    able = backbone.ability(Convertible)
    if able is None:
        raise RegistryError(f"backbone {backbone.name!r} converts no weights: it reads what is published as it is.")
    return able.conversion(backbone.options, DTYPES[dtype] if dtype is not None else None)
