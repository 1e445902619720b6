"""Foreign weight files as safetensors: written tensor by tensor, read back, and only then given their name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vader import storage
from vader.errors import WeightsError
from vader.weights.files import SAFETENSORS, first_line
from vader.weights.tensor_file import as_bytes, header

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What floating-point weights may be converted to."""

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
    head = header(conversion.shapes, conversion.dtypes, {"format": "pt"})
    total = sum(map(conversion.size, conversion.shapes))
    with new_file(target, len(head) + total) as temporary:
        with temporary.open("wb") as file:
            file.write(head)
            for name, done in _counted(conversion):
                file.write(as_bytes(conversion.tensor(name)))
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


def _verify(conversion: Conversion, file: Path, progress: Progress, total: int) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            if set(opened.keys()) != conversion.shapes.keys():
                raise WeightsError(f"{str(file)!r} has other tensors than were written. Is the disk sound? Try again.")
            for name, done in _counted(conversion):
                found, expected = opened.get_tensor(name), conversion.tensor(name)
                same = found.dtype == expected.dtype and found.shape == expected.shape
                if not same or as_bytes(found) != as_bytes(expected):
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
