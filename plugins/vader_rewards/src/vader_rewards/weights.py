"""Weights of rewards: from the hub or from a path. Every way they can fail is one ``vader.WeightsError``."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import RegistryError, WeightsError
from vader.sdk import compare_shapes, first_line, hub_file, hub_folder, is_hub_id, shapes_of, unreadable, user_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_HUB_FILE = re.compile(r"(\w[\w.-]*/\w[\w.-]*):(.+)")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_KIND = "a file of weights"
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja")


def folder(
    weights: str,
    revision: str | None,
    *,
    option: str = "weights",
    small: bool = False,
    patterns: tuple[str, ...] = _WEIGHTS,
) -> Path:
    """The local folder of a model, by default in the layout of transformers.

    Args:
        weights: hub id (``owner/name``) or local folder; a folder that exists wins.
        revision: branch, tag or commit on the hub.
        option: name of the option that gave it, for errors.
        small: configuration and tokenizer only, no weights.
        patterns: of files of weights; those of the first one that the hub has any of are fetched.

    Raises:
        vader.WeightsError: if there is no such folder, and the hub does not give it.
    """
    local = user_path(weights)
    if local.is_dir():
        return local
    if local.exists() or not is_hub_id(weights):
        what = "is a file, not a folder" if local.exists() else "is no folder here, nor a hub id (owner/name)"
        raise WeightsError(f"`{option}: {weights}` {what}. Give the folder that `hf download` has filled, or a hub id.")
    found = _snapshot(weights, revision, _SMALL, option)
    for pattern in () if small else patterns:  # safetensors when there are any
        if any((found := _snapshot(weights, revision, (*_SMALL, pattern), option)).glob(pattern)):
            break
    return found


def file(name: str, option: str) -> Path:
    """A local file, or one of a hub repository.

    Args:
        name: path, or ``owner/name:file`` for a file of a hub repository.
        option: name of the option that gave it, for errors.

    Raises:
        vader.WeightsError: if there is no such file, and the hub does not give it.
    """
    local = user_path(name)
    if local.is_file():
        return local
    hub = _HUB_FILE.fullmatch(name)
    if hub is None:
        what = "is a folder" if local.is_dir() else "is no file here"
        raise WeightsError(f"`{option}: {name}` {what}. Give the path of the file, or owner/name:file on the hub.")
    try:
        return hub_file(hub[1], hub[2])
    except WeightsError as error:
        raise WeightsError(f"`{option}`: {error}") from error


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...], option: str) -> Path:
    try:
        return hub_folder(name, patterns, revision)
    except WeightsError as error:
        raise WeightsError(f"`{option}`: {error}") from error


def model(
    kind: Any,
    source: Path,
    name: str,
    dtype: torch.dtype,
    quantization: Mapping[str, Any] | None = None,
    *,
    strict: bool = False,
) -> Any:
    """A frozen network of transformers in eval mode, on the CPU, every weight from its files.

    Args:
        kind: class of transformers.
        source: as :func:`folder` gives it.
        name: what the user calls it, for errors.
        dtype: of the weights.
        quantization: see :func:`large_model`.
        strict: refuse files that hold more.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.WeightsError: if a file is missing, truncated or of another model.
    """
    check_folder(source, name)

    def load(more: dict[str, Any]) -> Any:
        return kind.from_pretrained(source, dtype=dtype, local_files_only=True, output_loading_info=True, **more)

    try:
        with quiet():  # half of a CLIP is asked for on purpose; what is missing is judged below
            network, info = quantised(load, quantization)
    except RegistryError:
        raise
    except pickle.UnpicklingError as error:
        raise unreadable(source, name, _KIND, error) from error
    except Exception as error:  # each format of weights and each configuration fails in a way of its own
        raise WeightsError(
            f"{name} cannot be loaded as {kind.__name__}: {first_line(error)}. {_again(name)}"
        ) from error
    if missing := sorted(map(str, info["missing_keys"])):
        raise WeightsError(
            f"{name} is of another model: {len(missing)} weights of {kind.__name__} are not in its files "
            f"({shown(missing)})."
        )
    numbers = ("position_ids",)  # older versions of transformers kept them
    unknown = sorted(str(key) for key in info["unexpected_keys"] if not str(key).endswith(numbers))
    if strict and unknown:
        raise WeightsError(
            f"{name} is of another model: {len(unknown)} weights of its files are unknown to {kind.__name__} "
            f"({shown(unknown)})."
        )
    return network.requires_grad_(False).eval()


def tokenizer(source: Path, name: str) -> Any:
    """The tokenizer of a model's folder.

    Raises:
        vader.WeightsError: if it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise WeightsError(f"{name}: the tokenizer cannot be loaded: {first_line(error)}. {_again(name)}") from error


def processor(source: Path, name: str) -> dict[str, Any]:
    """The settings of a model's own preprocessing, ``preprocessor_config.json``; empty if it has none.

    Raises:
        vader.WeightsError: if the file is damaged.
    """
    path = source / "preprocessor_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name}: {path.name} is not readable JSON: {first_line(error)}. {_again(name)}") from error
    return found if isinstance(found, dict) else {}


def configuration(source: Path, name: str, file: str = "config.json") -> dict[str, Any]:
    """What a JSON file of a model's folder says.

    Raises:
        vader.WeightsError: if it is missing, damaged or no mapping.
    """
    path = source / file
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{name}: {file} is missing or not readable JSON: {first_line(error)}. {_again(name)}"
        ) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{name}: {file} holds {type(found).__name__}; expected a mapping. {_again(name)}")
    return found


def check_folder(source: Path, name: str) -> None:
    """A model's folder has a configuration, and its safetensors files are whole.

    Raises:
        vader.WeightsError: if not.
    """
    from safetensors import SafetensorError, safe_open

    if not (source / "config.json").is_file():
        raise WeightsError(
            f"{name} has no config.json, so it is no model in the layout of transformers. {_again(name)}"
        )
    for path in sorted(source.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise unreadable(path, f"{name}: {path}", _KIND, error) from error


def state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a file of ``torch.save`` read with ``weights_only=True``.

    Raises:
        vader.WeightsError: if the file is truncated, of another format, or holds anything but tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # zip, pickle and safetensors readers have no exception in common
        raise unreadable(path, str(path), _KIND, error) from error
    for name in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not (isinstance(found, Mapping) and found and all(isinstance(value, torch.Tensor) for value in found.values())):
        raise WeightsError(f"{path} holds {type(found).__name__}, not the weights of a network (name -> tensor).")
    return dict(found)


def fill(network: Any, tensors: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load weights into a network; all must fit.

    Raises:
        vader.WeightsError: if names or shapes differ; says which.
    """
    network.load_state_dict(fit(tensors, shapes_of(network.state_dict()), path, what))


def fit(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    path: Path,
    what: str,
    published: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Tensors by the names of a network; none may be missing, too many, or of another size.

    Args:
        tensors: by the names of their file.
        expected: shapes by the network's names.
        path: of the file, for errors.
        what: the network, for errors.
        published: the network's name -> the file's.

    Raises:
        vader.WeightsError: if names or shapes differ; says which, by the file's names.
    """
    ours = {published(name): name for name in expected}
    differ = compare_shapes(shapes_of(tensors), {theirs: expected[name] for theirs, name in ours.items()})
    problems = [f"{name} is missing" for name in differ.missing]
    problems += [f"{name} is unknown" for name in differ.unexpected]
    problems += [f"{name} has shape {found}, expected {wanted}" for name, (found, wanted) in differ.reshaped.items()]
    if problems:
        raise WeightsError(f"{path} does not hold the weights of {what}: {shown(problems)}.")
    return {ours[name]: tensor for name, tensor in tensors.items()}


def large_model(
    kind: Any, config: Any, tensors: dict[str, Tensor], dtype: torch.dtype, quantization: Mapping[str, Any] | None
) -> Any:
    """A frozen network of transformers in eval mode, on the CPU, from tensors that fit it; they are used up.

    Args:
        kind: class of transformers.
        config: its configuration object.
        tensors: by the network's own names.
        dtype: of the weights that are not quantised.
        quantization: of transformers (``quantization_config``); None for none.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.WeightsError: if transformers refuses the quantisation.
    """
    with quiet():
        network = quantised(
            lambda more: kind.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, **more),
            quantization,
        )
    return network.requires_grad_(False).eval()


def quantised(load: Callable[[dict[str, Any]], Any], quantization: Mapping[str, Any] | None) -> Any:
    """What ``load(more arguments)`` gives, told how to quantise.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.WeightsError: if transformers refuses the quantisation.
    """
    if quantization is None:
        return load({})
    try:
        return load({"quantization_config": dict(quantization)})
    except ImportError as error:
        raise RegistryError(f"`quantization: {dict(quantization)}` cannot be had here: {first_line(error)}.") from error
    except (ValueError, RuntimeError, TypeError, KeyError) as error:
        raise WeightsError(
            f"`quantization: {dict(quantization)}` is refused by transformers: {first_line(error)}. Expected a "
            "quantization_config of transformers, such as {quant_method: bitsandbytes, load_in_4bit: true}."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers says and draws nothing: what is missing or too many is judged here."""
    from transformers.utils import logging

    said = logging.get_verbosity()
    drawn = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(said)
        if drawn:
            logging.enable_progress_bar()


def shown(items: list[str], most: int = 3) -> str:
    """The first few of a list."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _again(name: str) -> str:
    return f"Fetch it with `hf download {name}`." if is_hub_id(name) else "Fetch it again with `hf download`."
