"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) through peft: inject, scale, save, load."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader.errors import WeightsError
from vader.spec import AdapterSpec

NAME = "default"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
_PEFT_PREFIX = "base_model.model."
_METADATA = "lora_adapter_metadata"
_PREFIXES = (_PEFT_PREFIX, "transformer.", "unet.", "diffusion_model.")


def inject(
    denoiser: nn.Module,
    spec: AdapterSpec,
    targets: Sequence[str],
    seed: int,
    tensors: Mapping[str, Tensor] | None = None,
) -> list[nn.Parameter]:
    """Freeze a denoiser and give it a LoRA adapter, in float32, that changes nothing yet.

    Args:
        denoiser: changed in place.
        spec: rank, alpha, dropout, target modules, a file to start from.
        targets: the backbone's own target modules, used when the spec names none.
        seed: of the adapter's random half.
        tensors: what ``spec.init`` holds, when its format is the backbone's own.

    Returns:
        The parameters that train.

    Raises:
        WeightsError: no layer matches, or ``spec.init`` cannot be loaded.
    """
    from peft import LoraConfig, inject_adapter_in_model

    wanted = list(spec.target_modules or targets)
    denoiser.requires_grad_(False)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha or spec.rank, lora_dropout=spec.dropout, target_modules=wanted, bias="none"
    )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, denoiser, adapter_name=NAME)
        except ValueError as error:
            raise WeightsError(
                f"no adapter can be put on {type(denoiser).__name__}: no layer matches target_modules {wanted}. "
                f"It has linear layers called {', '.join(_linear_names(denoiser))}. "
                f"peft says: {str(error).splitlines()[0]}"
            ) from error
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    denoiser.eval()
    if spec.init is not None:
        path = Path(spec.init).expanduser()
        restore(denoiser, tensors if tensors is not None else read(path)[0], str(path))
    return parameters


def _linear_names(module: nn.Module) -> list[str]:
    """The last parts of the names of a module's linear layers."""
    names = {name.rsplit(".", 1)[-1] for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    return sorted(names)


def _layers(denoiser: nn.Module) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]


def set_dropout(denoiser: nn.Module, active: bool) -> None:
    """Adapter dropout on or off. The base network stays in eval mode always."""
    for layer in _layers(denoiser):
        layer.lora_dropout.train(active)


def set_scale(denoiser: nn.Module, scale: float) -> None:
    """Scale the adapter's update; 0 takes the adapter out of the computation, which gives the base bit for bit."""
    for layer in _layers(denoiser):
        layer.enable_adapters(enabled=scale != 0.0)
        if scale != 0.0:
            layer.set_scale(NAME, scale)


@contextmanager
def switched_off(denoiser: nn.Module) -> Iterator[None]:
    """The base model, bit for bit, while the context lasts. Unlike peft's own way it leaves ``requires_grad``."""
    layers = _layers(denoiser)
    scales = [layer.scaling[NAME] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[NAME] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[NAME] = scale


def state_dict(denoiser: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by plain name, such as ``blocks.0.attn1.to_q.lora_A.weight``, on the CPU."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {_plain(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def save(denoiser: nn.Module, folder: Path, denoiser_name: str | None = None) -> None:
    """Write an adapter in peft's layout and, with ``denoiser_name``, in diffusers' as well.

    Args:
        denoiser: carries the adapter.
        folder: exists and is empty.
        denoiser_name: diffusers' name of the denoiser in its pipeline ("transformer", "unet"): then the folder also
            serves ``pipeline.load_lora_weights(folder)``.
    """
    _write(folder, state_dict(denoiser), denoiser.peft_config[NAME], denoiser_name)  # type: ignore[index]


def write(folder: Path, state: Mapping[str, Tensor], spec: AdapterSpec, denoiser_name: str | None = None) -> None:
    """Write an adapter that is on no denoiser; see :func:`save`.

    Args:
        folder: exists and is empty.
        state: tensors by plain name.
        spec: rank, alpha, and the target modules, which are needed.
        denoiser_name: see :func:`save`.
    """
    from peft import LoraConfig

    alpha, targets = spec.alpha or spec.rank, list(spec.target_modules or ())
    config = LoraConfig(
        r=spec.rank, lora_alpha=int(alpha) if alpha == int(alpha) else alpha, target_modules=targets, bias="none"
    )
    _write(folder, {name: tensor.contiguous() for name, tensor in state.items()}, config, denoiser_name)


def _write(folder: Path, state: Mapping[str, Tensor], peft_config: Any, denoiser_name: str | None) -> None:
    from safetensors.torch import save_file

    config = {key: _jsonable(value) for key, value in peft_config.to_dict().items()}
    own = {"format": "pt", _METADATA: json.dumps(config, sort_keys=True)}  # a bare file keeps its alpha
    save_file({_PEFT_PREFIX + name: tensor for name, tensor in state.items()}, folder / PEFT_FILE, own)
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if denoiser_name is not None:
        prefixed = {f"{denoiser_name}.{key}": value for key, value in config.items() if key in _DIFFUSERS_KEYS}
        metadata = {"format": "pt", _METADATA: json.dumps(prefixed, sort_keys=True)}
        save_file(
            {f"{denoiser_name}.{name}": tensor for name, tensor in state.items()}, folder / DIFFUSERS_FILE, metadata
        )


_DIFFUSERS_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "peft_type")


def _jsonable(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return value.value if hasattr(value, "value") else value


def locate(path: Path) -> Path:
    """The file that holds an adapter's tensors.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.

    Raises:
        WeightsError: there is none.
    """
    files = [path / PEFT_FILE, path / DIFFUSERS_FILE] if path.is_dir() else [path]
    file = next((candidate for candidate in files if candidate.is_file()), None)
    if file is None or file.suffix != ".safetensors":
        raise WeightsError(
            f"no adapter at {str(path)!r}. Expected a folder with {PEFT_FILE} or {DIFFUSERS_FILE}, "
            "or a .safetensors file. `vader convert adapter` makes one of a backbone's other formats."
        )
    return file


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """An adapter's tensors by plain name, and its peft configuration when there is one beside them.

    Args:
        path: a folder in peft's or diffusers' layout, or one .safetensors file.

    Raises:
        WeightsError: nothing there, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    file = locate(path)
    try:
        state = load_file(file)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{str(file)!r} is not a readable safetensors file ({error}). Copy or download it again."
        ) from error
    config_file = file.with_name(PEFT_CONFIG)
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else _embedded(metadata)
        if config is not None:
            _ = config["r"], config["lora_alpha"], config["target_modules"]
    except (ValueError, LookupError, TypeError) as error:
        raise WeightsError(
            f"{str(config_file)!r} describes no LoRA adapter of peft ({error!r}). Copy it again."
        ) from error
    return {_plain(name): tensor for name, tensor in state.items()}, config


def _embedded(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The peft configuration inside a file: ours plain, diffusers' with the denoiser's name before each key."""
    if _METADATA not in metadata:
        return None
    return {key.rsplit(".", 1)[-1]: value for key, value in json.loads(metadata[_METADATA]).items()}


def load_into(denoiser: nn.Module, path: Path) -> None:
    """Load an adapter's tensors into one injected with the same shape.

    Raises:
        WeightsError: names or shapes differ: another model, another rank or other target modules.
    """
    restore(denoiser, read(path)[0], str(path))


def restore(denoiser: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy an adapter's tensors into place, exactly.

    Raises:
        WeightsError: names or shapes differ.
    """
    own = {_own_name(name): parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{name}: {tuple(state[name].shape)} there, {tuple(own[name].shape)} here"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        raise WeightsError(
            f"the adapter {source!r} is for another model, rank or set of target modules: {len(missing)} tensors are "
            f"missing{_some(missing)}, {len(unexpected)} are unexpected{_some(unexpected)}, {len(wrong)} have another "
            f"shape{_some(wrong)}. Set backbone.adapter.rank and target_modules as they were when it was trained."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _own_name(name: str) -> str:
    return name.replace(f".{NAME}.", ".")


def _some(names: Sequence[str]) -> str:
    return f" (such as {names[0]})" if names else ""


def spec_of(path: Path) -> AdapterSpec:
    """The shape of a saved adapter: rank, alpha and target modules, from its configuration or from its tensors.

    Raises:
        WeightsError: see :func:`read`.
    """
    state, config = read(path)
    if config is not None:
        return AdapterSpec(
            rank=config["r"], alpha=config["lora_alpha"], target_modules=tuple(config["target_modules"]), init=str(path)
        )
    downs = {name: tensor for name, tensor in state.items() if name.endswith(".lora_A.weight")}
    if not downs:
        raise WeightsError(f"{str(path)!r} holds no LoRA tensors (names ending in lora_A.weight).")
    rank = int(next(iter(downs.values())).shape[0])
    targets = tuple(sorted(name.removesuffix(".lora_A.weight") for name in downs))
    return AdapterSpec(rank=rank, target_modules=targets, init=str(path))
