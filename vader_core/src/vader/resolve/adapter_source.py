"""Where an adapter comes from: a folder, a file or the hub, in a backbone's own format or in peft's or diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vader.errors import WeightsError
from vader.paths import user_path
from vader.protocols import NativeAdapters, StartsFromNative
from vader.resolve.components import ResolvedComponent
from vader.spec import AdapterSpec
from vader.weights.files import PICKLED, SAFETENSORS, hub_folder, hub_listing, not_given, shown

if TYPE_CHECKING:
    from torch import Tensor

    from vader.weights.lora import Adapter

HUB = "hub:"
"""What the name of an adapter on the hub begins with."""
_HUB_NAME = re.compile(r"hub:(?P<name>\w[\w.-]*/\w[\w.-]*)(?::(?P<file>(?:\w[\w. -]*/)*\w[\w. -]*))?")


def locate(init: str | Path, *, cached: bool = False) -> Path | None:
    """The local folder or file of an adapter.

    Args:
        init: a path, or ``hub:owner/name`` or ``hub:owner/name:file`` for a repository of the hub, which is downloaded.
            Without a file the repository must hold one adapter.
        cached: look in the hub's cache alone, for judging a spec without downloading.

    Returns:
        The path, which need not exist; None for an adapter that only the hub has, if ``cached``.

    Raises:
        WeightsError: the hub does not give it, or which of its files is meant is unclear.
    """
    if not str(init).startswith(HUB):
        return user_path(init)
    given = _HUB_NAME.fullmatch(str(init))
    if given is None:
        raise WeightsError(f"{str(init)!r} names nothing on the hub; expected hub:owner/name or hub:owner/name:file.")
    name, file = given["name"], given["file"]
    try:
        return _fetched(name, file or _only(name, hub_listing(name, cached=cached)), cached)
    except WeightsError:
        if cached:
            return None
        raise


def _fetched(name: str, file: str, cached: bool) -> Path:
    """A file of a repository, with peft's configuration where one lies beside it."""
    from vader.weights.lora import PEFT_CONFIG

    wanted = [file, str(Path(file).with_name(PEFT_CONFIG))]
    path = hub_folder(name, wanted, cached=cached) / file
    if not path.is_file():
        raise not_given(name, file, None, FileNotFoundError("there is no such file in it"))
    return path


def _only(name: str, files: Sequence[str]) -> str:
    """The one adapter among the files of a repository."""
    from vader.weights.lora import DIFFUSERS_FILE, PEFT_FILE

    if known := next((file for file in (PEFT_FILE, DIFFUSERS_FILE) if file in files), None):
        return known
    found = sorted(file for file in files if Path(file).suffix.lower() in (SAFETENSORS, *PICKLED))
    if len(found) == 1:
        return found[0]
    held = f"{len(found)} files of weights{shown(found)}" if found else f"no file of weights, only {len(files)} others"
    raise WeightsError(f"hub repository {name} holds {held}; name the adapter's: {HUB}{name}:FILE.")


def shape_of(backbone: ResolvedComponent, path: Path) -> AdapterSpec:
    """Rank, alpha and target modules of a saved adapter, whatever its format. No weight of the backbone is read.

    Raises:
        WeightsError: there is no adapter, or none that can be read.
    """
    from vader.weights import lora

    found = _own_shape(backbone, path)
    if found is not None:
        return found.model_copy(update={"init": str(path)})
    return lora.spec_of(path, backbone.capability("published_layers"))


def tensors(backbone: ResolvedComponent, path: Path) -> Mapping[str, Tensor]:
    """An adapter's tensors by plain name, whatever its format.

    Raises:
        WeightsError: it cannot be read, or is of another model.
    """
    return read(backbone, path).state


def read(backbone: ResolvedComponent, path: Path) -> Adapter:
    """An adapter that training can start from, in any format that ``backbone.adapter.init`` takes.

    Raises:
        WeightsError: it cannot be read, or is of another model.
    """
    from vader.weights import lora

    if _own_shape(backbone, path) is not None and (own := foreign(backbone, path)) is not None:
        return lora.Adapter(*own, {})
    return lora.trainable(lora.read(path, backbone.capability("published_layers")), path)


def read_frozen(backbone: ResolvedComponent, path: Path) -> Adapter:
    """An adapter to be fused: as :func:`read`, and it may change whole parameters."""
    from vader.weights import lora

    if _own_shape(backbone, path) is not None:
        return read(backbone, path)
    return lora.read(path, backbone.capability("published_layers"))


def _own_shape(backbone: ResolvedComponent, path: Path) -> AdapterSpec | None:
    own = backbone.ability(StartsFromNative)
    return own.adapter_spec(path) if own is not None and path.is_file() else None


def foreign(backbone: ResolvedComponent, path: Path) -> tuple[AdapterSpec, Mapping[str, Tensor]] | None:
    """An adapter in the backbone's own format, its tensors by plain name; None for one in another format.

    Raises:
        WeightsError: it cannot be read, or is of another model.
    """
    own = backbone.ability(NativeAdapters)
    return own.import_adapter(backbone.options, path) if own is not None and path.is_file() else None
