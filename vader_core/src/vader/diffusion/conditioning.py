"""Conditioning of prompts, encoded once each: kept in memory, and on disk for later runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from vader.errors import Problem, SpecError, blame
from vader.protocols import Backbone, CachesConditioning, Conditioning, Prompt
from vader.storage import write_with

MEMORY_BYTES = 2 * 2**30
"""What the conditioning kept in memory may take."""
DISK_BYTES = 20 * 2**30
"""What that of one backbone may take on disk."""


class ConditioningCache:
    """Encodes each prompt once, alone, without gradient, and keeps it on the CPU, pinned for a CUDA device.

    Alone, because a text encoder's numbers depend on the batch it runs in, and a resumed run meets other batches. Equal
    tensors, such as the negative prompt's, are kept once. With a backbone that names all that decides its numbers
    (:class:`vader.protocols.CachesConditioning`) conditioning is kept on disk too.

    Args:
        backbone: encodes.
        device: where the conditioning is wanted.
        limit: bytes kept in memory; what was not used for longest goes first.
        home: folder of what is kept on disk; None keeps nothing there.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        limit: int = MEMORY_BYTES,
        home: Path | None = None,
    ) -> None:
        self._backbone, self._device, self._limit = backbone, device, limit
        self._rows: OrderedDict[str, Conditioning] = OrderedDict()
        self._images: dict[Path, str] = {}
        self._shared: dict[str, Tensor] = {}
        self._bytes = 0
        self._room = DISK_BYTES if isinstance(backbone, CachesConditioning) else limit
        self._disk: _Store | None = None
        if home is not None and isinstance(backbone, CachesConditioning):
            self._disk = _Store(home / "conditioning" / backbone.conditioning_key())

    def __call__(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Conditioning of ``b`` prompts, on the device."""
        rows = [self._row(prompt) for prompt in prompts]
        positive = {name: self._stacked([row.positive[name] for row in rows]) for name in rows[0].positive}
        if rows[0].negative is None:
            return Conditioning(positive)
        negatives = [row.negative or {} for row in rows]
        return Conditioning(positive, {name: self._stacked([row[name] for row in negatives]) for name in negatives[0]})

    def has_room(self, prompt: Prompt, count: int) -> bool:
        """Whether the conditioning of so many prompts can be kept; this one of them is encoded to see its size."""
        return _size(self._row(prompt).positive) * count <= self._room

    def ahead(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, int]]:
        """Encode prompts before their conditioning is wanted; yields how many are done and how many there are."""
        distinct = {self._key(prompt): prompt for prompt in prompts}
        for done, prompt in enumerate(distinct.values(), 1):
            self._row(prompt)
            yield done, len(distinct)

    def keeps(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the conditioning of all these prompts is here, so that none need be encoded again."""
        keys = set(map(self._key, prompts)) - self._rows.keys()
        return not keys or (self._disk is not None and all(map(self._disk.has, keys)))

    def _stacked(self, tensors: list[Tensor]) -> Tensor:
        """Rows as one tensor on the device; a row that all share is not copied. The host does not wait."""
        if all(tensor is tensors[0] for tensor in tensors):
            return self._moved(tensors[0]).expand(len(tensors), *tensors[0].shape[1:])
        return torch.cat([self._moved(tensor) for tensor in tensors])

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)

    def _pinned(self, tensor: Tensor) -> Tensor:
        """The tensor in memory that a CUDA device copies from by itself."""
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _row(self, prompt: Prompt) -> Conditioning:
        key = self._key(prompt)
        if key not in self._rows:
            found = self._disk.read(key) if self._disk is not None else None
            if found is None:
                with torch.no_grad(), blame(f"backbone {type(self._backbone).__name__}, encoding {prompt.text!r},"):
                    found = self._backbone.encode([prompt]).detach().to("cpu")
                if self._disk is not None:
                    self._disk.write(key, found)
            self._keep(key, found)
        self._rows.move_to_end(key)
        return self._rows[key]

    def _key(self, prompt: Prompt) -> str:
        """Names a prompt by its text and the bytes of its image, which are read once."""
        digest = ""
        if prompt.image is not None:
            if prompt.image not in self._images:
                self._images[prompt.image] = _image_digest(prompt.image)
            digest = self._images[prompt.image]
        return hashlib.sha256(f"{prompt.text}\0{digest}".encode()).hexdigest()

    def _keep(self, key: str, row: Conditioning) -> None:
        positive, shared = {name: self._pinned(tensor) for name, tensor in row.positive.items()}, _shared(row)
        own = {name: tensor for name, tensor in (row.negative or {}).items() if name not in shared}
        negative = {name: positive[name] for name in shared}
        negative |= {name: self._once(name, tensor) for name, tensor in own.items()}
        self._rows[key] = Conditioning(positive, negative if row.negative is not None else None)
        self._bytes += _size(row.positive)
        while self._bytes > self._limit and len(self._rows) > 1:
            _, oldest = self._rows.popitem(last=False)
            self._bytes -= _size(oldest.positive)

    def _once(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor of that name that is kept already, if it is equal; else this one, kept from now on."""
        known = self._shared.get(name)
        if known is None or known.shape != tensor.shape or not torch.equal(known, tensor):
            self._shared[name] = known = self._pinned(tensor.contiguous())
        return known


def _image_digest(path: Path) -> str:
    """SHA-256 of an image's bytes.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SpecError([Problem("prompts", f"the image {str(path)!r} cannot be read: {error.strerror}.")]) from error


def _shared(row: Conditioning) -> set[str]:
    """What is one tensor in both branches, such as image latents."""
    negative = row.negative or {}
    return {name for name, tensor in row.positive.items() if negative.get(name) is tensor}


def _size(branch: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in branch.values())


class _Store:
    """Conditioning on disk: a safetensors file a prompt, and what the negative branch has of its own once for all.

    Nothing here can fail a run: what cannot be read is made again, what cannot be written is not kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: int | None = None  # bytes, as far as this process knows; None before it has looked

    def read(self, key: str) -> Conditioning | None:
        """What is kept under a key."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file(key), "pt") as opened:
                positive = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
                said = opened.metadata() or {}
            digest, shared = said["negative"], json.loads(said["shared"])
            if not digest:
                return Conditioning(positive)
            with safe_open(self._folder / f"negative-{digest}.safetensors", "pt") as opened:
                own = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return Conditioning(positive, own | {name: positive[name] for name in shared})
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def has(self, key: str) -> bool:
        """Whether something is kept under a key."""
        return self._file(key).is_file()

    def write(self, key: str, row: Conditioning) -> None:
        """Keep the conditioning of a prompt."""
        from safetensors.torch import save

        def plain(branch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.contiguous().clone() for name, tensor in sorted(branch.items())}

        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            digest, data, common = "", b"", sorted(_shared(row))
            if row.negative is not None:
                data = save(plain({name: row.negative[name] for name in row.negative.keys() - set(common)}))
                digest = hashlib.sha256(data).hexdigest()[:16]
                shared = self._folder / f"negative-{digest}.safetensors"
                if shared.is_file():
                    data = b""
                else:
                    write_with(shared, lambda file: file.write(data))
            whole = save(plain(row.positive), {"negative": digest, "shared": json.dumps(common)})
            write_with(self._file(key), lambda file: file.write(whole))
            self._make_room(len(whole) + len(data))

    def _file(self, key: str) -> Path:
        return self._folder / f"prompt-{key}.safetensors"

    def _make_room(self, written: int) -> None:
        """Look at the folder when it may be too full, and at first; a run of many prompts does not list it for each."""
        if self._used is not None and self._used + written <= DISK_BYTES:
            self._used += written
            return
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self._folder)]
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= DISK_BYTES:
                break
            if Path(path).name.startswith("prompt-"):
                Path(path).unlink(missing_ok=True)
                total -= size
        self._used = total
