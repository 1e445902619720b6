"""Foreign weight files as safetensors: written tensor by tensor, read back, and only then given their name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader import storage
from vader.errors import RegistryError, WeightsError
from vader.protocols import Convertible, ExportsNative
from vader.resolve.adapter_source import foreign
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights.files import PICKLED, SAFETENSORS, first_line
from vader.weights.lora import adapters

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What floating-point weights may be converted to."""
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Progress = Callable[[str, int, int], None]
"""Told what is being done, bytes done and bytes in all."""


@dataclass(frozen=True)
class Conversion:
    """A weight file as it is to be written.

    Args:
        shapes: of every tensor by name, in the order in which they are written.
        dtypes: of every tensor.
        read: gives one tensor, as often as it is asked for, in any dtype.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]

    def size(self, name: str) -> int:
        """Bytes of a tensor."""
        return torch.Size(self.shapes[name]).numel() * self.dtypes[name].itemsize

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is written.

        Raises:
            WeightsError: a finite value is too large for the dtype.
        """
        tensor, dtype = self.read(name), self.dtypes[name]
        narrow = tensor.to(dtype).reshape(self.shapes[name]).contiguous()
        if narrow.dtype != tensor.dtype and not narrow.isfinite().all() and tensor.isfinite().all():
            largest = float(tensor.abs().max())
            raise WeightsError(f"{name} holds {largest:g}, which {str(dtype)[6:]} cannot. Convert to bfloat16 instead.")
        return narrow


def write(conversion: Conversion, target: Path, progress: Progress) -> int:
    """Write a safetensors file, one tensor in memory at a time.

    It is written under a temporary name, read back tensor by tensor, compared byte for byte, and renamed.

    Args:
        conversion: what to write.
        target: a new file whose name ends in ``.safetensors``.
        progress: told of every tensor that is written, and of every one that is compared.

    Returns:
        Bytes of the file.

    Raises:
        WeightsError: the target exists, has another ending or no room; or what was read back is not what was written.
    """
    if target.suffix.lower() != SAFETENSORS:
        raise WeightsError(f"cannot write {str(target)!r}; expected a name that ends in {SAFETENSORS}.")
    header = _header(conversion)
    total = sum(map(conversion.size, conversion.shapes))
    with _new(target, len(header) + total) as temporary:
        with temporary.open("wb") as file:
            file.write(header)
            for name, done in _counted(conversion):
                file.write(_bytes(conversion.tensor(name)))
                progress("writing", done, total)
            storage.sync(file)
        _verify(conversion, temporary, progress, total)
    return target.stat().st_size


def _counted(conversion: Conversion) -> Iterator[tuple[str, int]]:
    """Names, each with the bytes up to its end."""
    done = 0
    for name in conversion.shapes:
        done += conversion.size(name)
        yield name, done


def _header(conversion: Conversion) -> bytes:
    """Length and JSON header of the file. Source: the format of safetensors, whose data starts at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, end in _counted(conversion):
        span = [end - conversion.size(name), end]
        dtype, shape = _CODES[conversion.dtypes[name]], list(conversion.shapes[name])
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> memoryview:
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _verify(conversion: Conversion, file: Path, progress: Progress, total: int) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            if set(opened.keys()) != conversion.shapes.keys():
                raise WeightsError(f"{str(file)!r} has other tensors than were written. Is the disk sound? Try again.")
            for name, done in _counted(conversion):
                found, expected = opened.get_tensor(name), conversion.tensor(name)
                same = found.dtype == expected.dtype and found.shape == expected.shape
                if not same or _bytes(found) != _bytes(expected):
                    raise WeightsError(
                        f"{name} in {str(file)!r} is not what was written. Is the disk sound? Try again."
                    )
                progress("checking", done, total)
    except SafetensorError as error:
        raise WeightsError(f"{str(file)!r} cannot be read back: {first_line(error)}. Is the disk sound?") from error


@contextmanager
def _new(target: Path, size: int) -> Iterator[Path]:
    """A temporary name beside a new file or folder, which gets its own name if all goes well; else nothing is left.

    Raises:
        WeightsError: the target exists, or there is no room for it.
    """
    exists = WeightsError(f"{str(target)!r} exists and is not overwritten. Remove it, or give another name.")
    if target.exists():
        raise exists
    temporary = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size:
            raise WeightsError(f"no room for {str(target)!r}: it needs {size:,} bytes, and {free:,} are free.")
        yield temporary
        if target.exists():
            raise exists
        temporary.replace(target)
    except OSError as error:
        raise WeightsError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


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
    spec, state = found if found is not None else (adapters.spec_of(source), adapters.read(source)[0])
    size = sum(tensor.nbytes for tensor in state.values())
    if target.suffix.lower() in PICKLED:
        exporter = backbone.ability(ExportsNative)
        if exporter is None:
            raise WeightsError(
                f"backbone {backbone.name!r} has no adapter format of its own, so {str(target)!r} cannot be written. "
                "Give a folder: it gets peft's layout."
            )
        exported = exporter.export_adapter(backbone.options, spec, state)
        with _new(target, size) as temporary, temporary.open("wb") as file:
            torch.save(exported, file)
            storage.sync(file)
        return spec
    if target.suffix.lower() == SAFETENSORS:
        raise WeightsError(f"{str(target)!r} is the name of a file; expected that of a new folder, or one in .pt.")
    with _new(target, 2 * size) as temporary:
        temporary.mkdir()
        adapters.write(temporary, state, spec, backbone.capability("denoiser_name"))
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
    made: Conversion = able.conversion(backbone.options, DTYPES[dtype] if dtype is not None else None)
    return made
