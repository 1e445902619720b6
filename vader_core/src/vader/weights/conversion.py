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
from vader.errors import WeightsError
from vader.weights.files import SAFETENSORS, first_line

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
    with new_file(target, len(header) + total) as temporary:
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
def new_file(target: Path, size: int) -> Iterator[Path]:
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
