"""Put a LoRA adapter on a denoiser (Hu et al. 2021, arXiv 2106.09685), through peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vader.errors import WeightsError
from vader.paths import user_path
from vader.spec import AdapterSpec
from vader.weights.lora.load import read, restore
from vader.weights.lora.names import NAME


def inject(
    denoiser: nn.Module,
    spec: AdapterSpec,
    targets: Sequence[str],
    seed: int,
    tensors: Mapping[str, Tensor] | None = None,
    without: str | None = None,
) -> list[nn.Parameter]:
    """Freeze a denoiser and give it a LoRA adapter, in float32, that changes nothing yet.

    Args:
        denoiser: changed in place.
        spec: rank, alpha, dropout, target modules, a file to start from.
        targets: the backbone's own target modules, used when the spec names none.
        seed: of the adapter's random half.
        tensors: what ``spec.init`` holds, when its format is the backbone's own.
        without: regular expression of whole names of modules that carry none.

    Returns:
        The parameters that train.

    Raises:
        WeightsError: no layer matches, or ``spec.init`` cannot be loaded.
    """
    from peft import LoraConfig, inject_adapter_in_model

    from vader.weights.lora.layer import make_lean

    wanted = list(spec.target_modules or targets)
    if spec.target_modules:
        _all_match(denoiser, wanted, f" of {spec.init!r}" if spec.init else "")
    denoiser.requires_grad_(False)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha or spec.rank,
        lora_dropout=spec.dropout,
        target_modules=wanted,
        exclude_modules=without,
        bias="none",
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
    make_lean(denoiser)
    denoiser.eval()
    if spec.init is not None:
        path = user_path(spec.init)
        restore(denoiser, tensors if tensors is not None else read(path).state, str(path))
    return parameters


def _all_match(denoiser: nn.Module, wanted: Sequence[str], whose: str) -> None:
    """Every entry of target_modules names a layer.

    Raises:
        WeightsError: one names none; peft would leave it out without a word.
    """
    names = [name for name, _ in denoiser.named_modules()]
    strange = [entry for entry in wanted if not any(name == entry or name.endswith(f".{entry}") for name in names)]
    if strange:
        raise WeightsError(
            f"no adapter can be put on {type(denoiser).__name__}: no layer matches target_modules {strange}{whose}. "
            f"It has linear layers called {', '.join(_linear_names(denoiser))}."
        )


def _linear_names(module: nn.Module) -> list[str]:
    """The last parts of the names of a module's linear layers."""
    names = {name.rsplit(".", 1)[-1] for name, child in module.named_modules() if isinstance(child, nn.Linear)}
    return sorted(names)
