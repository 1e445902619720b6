"""What a backbone converts: its published checkpoint, and adapters between its own format and peft's."""

from __future__ import annotations

from pathlib import Path

import torch

from vader import storage
from vader.errors import RegistryError, WeightsError
from vader.protocols import Convertible, ExportsNative
from vader.resolve.adapter_source import foreign, read
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights import lora
from vader.weights.conversion import DTYPES, Conversion, new_file
from vader.weights.files import PICKLED, SAFETENSORS


def convert_adapter(backbone: ResolvedComponent, source: Path, target: Path, form: str | None = None) -> AdapterSpec:
    """An adapter in another format.

    Args:
        backbone: whose adapter it is; its options may name the weights that it was made for.
        source: an adapter in the backbone's own format, or in any of :data:`vader.weights.lora.FORMATS`.
        target: new. A name that ends as ``torch.save``'s files do gets the backbone's own format; one in .safetensors
            the format asked for; any other is a folder in peft's layout and, where diffusers can load it, in diffusers'
            as well.
        form: format of a .safetensors file: any but peft, which is a folder.

    Returns:
        What the adapter is, its alpha as trained.

    Raises:
        WeightsError: the source cannot be read, the target exists, or the backbone has no such format.
    """
    single = [name for name in lora.FORMATS if name != "peft"]
    file = target.suffix.lower() == SAFETENSORS
    if file and form not in single:
        raise WeightsError(
            f"{str(target)!r} is the name of a file, whose format must be named: --format {', '.join(single)}; "
            f"found {form!r}. Or give the name of a new folder."
        )
    if not file and form not in (None, "peft"):
        raise WeightsError(f"format {form!r} is one file; expected a target in {SAFETENSORS}, found {str(target)!r}.")
    found = foreign(backbone, source)
    adapter = lora.Adapter(*found, {}) if found is not None else read(backbone, source)
    spec, state = adapter.spec, adapter.state
    size = sum(tensor.nbytes for tensor in state.values())
    if target.suffix.lower() in PICKLED:
        exporter = backbone.ability(ExportsNative)
        if exporter is None:
            raise WeightsError(
                f"backbone {backbone.name!r} has no adapter format of its own, so {str(target)!r} cannot be written. "
                f"Give a folder, which gets peft's layout, or a file in {SAFETENSORS} and --format."
            )
        exported = exporter.export_adapter(backbone.options, spec, state)
        with new_file(target, size) as temporary, temporary.open("wb") as opened:
            torch.save(exported, opened)
            storage.sync(opened)
        return spec
    with new_file(target, 2 * size) as temporary:
        denoiser = backbone.capability("denoiser_name")
        if file:
            assert form is not None
            lora.write_file(temporary, adapter, form, backbone.capability("published_layers"), denoiser)
        else:
            temporary.mkdir()
            lora.write(temporary, state, spec, denoiser, backbone.capability("experts"))
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
