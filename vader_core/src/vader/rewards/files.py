"""The folder of a latent reward: ``config.json`` and ``model.safetensors``, written by ``vader reward train``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader.errors import WeightsError
from vader.paths import user_path
from vader.storage import write_json
from vader.weights.files import hub_folder, is_hub_id, shown, unreadable

if TYPE_CHECKING:
    from torch import Tensor

    from vader.protocols import Backbone

CONFIG, MODEL = "config.json", "model.safetensors"
_FIX = "Name a folder that 'vader reward train' has written, or a hub id of one."


@dataclass(frozen=True)
class LatentConfig:
    """What a latent reward is made of.

    Args:
        layers: of the denoiser that are its trunk.
        heads: of its attention.
        width: of its tokens.
        hidden: width of its MLP.
        denoiser: whose layers they are: class and configuration, without the number of layers.
        trained: on what, and how, for a reader.
    """

    layers: int
    heads: int
    width: int
    hidden: int
    denoiser: Mapping[str, Any]
    trained: Mapping[str, Any]


def denoiser_of(trunk: Any) -> dict[str, Any]:
    """Class and configuration of a trunk, without the number of its layers and what only says where it came from."""
    said = {key: value for key, value in dict(getattr(trunk, "config", {})).items() if not key.startswith("_")}
    counts = [key for key in said if key.startswith("num_") and key.endswith("layers")]
    known = {key: value for key, value in said.items() if key not in counts}
    plain: dict[str, Any] = json.loads(json.dumps({"class": type(trunk).__name__, **known}, default=str))
    return plain


def locate(weights: str) -> Path:
    """The local folder of a latent reward.

    Raises:
        WeightsError: there is none.
    """
    folder = user_path(weights)
    if not folder.is_dir() and is_hub_id(weights):
        folder = hub_folder(weights, [CONFIG, MODEL])
    for name in (CONFIG, MODEL):
        if not (folder / name).is_file():
            raise WeightsError(f"{weights}: there is no {name} of a latent reward. {_FIX}")
    return folder


def read_config(folder: Path) -> LatentConfig:
    """What the folder holds.

    Raises:
        WeightsError: its configuration cannot be read.
    """
    file = folder / CONFIG
    try:
        return LatentConfig(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(file, str(file), "the configuration of a latent reward", error, _FIX) from error


def require_same_denoiser(config: LatentConfig, trunk: Any, name: str) -> None:
    """The reward was made of a denoiser like this backbone's, so that it sees latents as it knows them.

    Raises:
        WeightsError: if not; says the first differences.
    """
    wanted, found = dict(config.denoiser), denoiser_of(trunk)
    keys = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
    if keys:
        differ = shown([f"{key} {wanted.get(key)!r} there, {found.get(key)!r} here" for key in keys])
        raise WeightsError(f"{name} scores the latents of another denoiser than this backbone's{differ}. {_FIX}")


def read_weights(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a reward, by name.

    Args:
        folder: with the file.
        wanted: the network's own, by name; those of the file must have these names and shapes.

    Raises:
        WeightsError: the file is truncated, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / MODEL
    try:
        found: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise unreadable(file, str(file), "a safetensors file", error, _FIX) from error
    odd = [f"no {name}" for name in sorted(wanted.keys() - found.keys())]
    odd += [f"{name} too many" for name in sorted(found.keys() - wanted.keys())]
    shapes = {name: (tuple(found[name].shape), tuple(wanted[name].shape)) for name in wanted.keys() & found.keys()}
    odd += [f"{name} {seen}, expected {hoped}" for name, (seen, hoped) in sorted(shapes.items()) if seen != hoped]
    if odd:
        raise WeightsError(f"{file} does not fit its own {CONFIG}{shown(odd)}. {_FIX}")
    return found


def write(folder: Path, config: LatentConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a reward into a folder, which is made; each file under a temporary name, then renamed."""
    from safetensors.torch import save

    from vader.storage import write_with

    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_with(folder / MODEL, lambda file: file.write(data))
    write_json(folder / CONFIG, asdict(config))


def require_trunk(backbone: Backbone | None, name: str) -> Any:
    """The backbone as what its denoiser's layers are taken from.

    Raises:
        WeightsError: it gives none.
    """
    from vader.protocols import GivesTrunk

    if not isinstance(backbone, GivesTrunk):
        what = "no backbone" if backbone is None else f"the backbone {type(backbone).__name__}"
        raise WeightsError(
            f"{name}: a latent reward is made of a denoiser's first layers, and {what} gives them. Use it with a "
            "backbone that has `trunk`, such as wan or shapes."
        )
    return backbone
