"""The base weights of a denoiser in fewer bits, by diffusers' own configurations. Frozen; gradients pass through."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from vader.errors import Problem, SpecError
from vader.installing import install_command

if TYPE_CHECKING:
    import torch

Quantize = Literal["none", "bnb_nf4", "bnb_int8", "torchao_int8", "torchao_fp8"]
_BLOCK, _SUPER = 64, 256
"""Weights of bitsandbytes' nf4 that share a scale, and scales that share one."""


@dataclass(frozen=True)
class Scheme:
    """A way to hold the weights of linear layers.

    Args:
        package: that holds them.
        cuda: whether it needs a CUDA device.
        bits: of a weight.
        by_block: scales by block (a byte each, and four for many), else four bytes for each output.
        keeps: what autograd keeps of each layer for backward is the weight unpacked, else it unpacks it again.
    """

    package: str
    cuda: bool
    bits: int
    by_block: bool
    keeps: bool

    def size(self, outputs: int, inputs: int) -> int:
        """Bytes of a layer's weight with its scales."""
        count = outputs * inputs
        blocks = ceil(count / _BLOCK)
        return count * self.bits // 8 + (blocks + 4 * ceil(blocks / _SUPER) if self.by_block else 4 * outputs)


SCHEMES: Mapping[str, Scheme] = {
    "bnb_nf4": Scheme("bitsandbytes", cuda=True, bits=4, by_block=True, keeps=False),
    "bnb_int8": Scheme("bitsandbytes", cuda=True, bits=8, by_block=False, keeps=False),
    "torchao_int8": Scheme("torchao", cuda=False, bits=8, by_block=False, keeps=True),
    "torchao_fp8": Scheme("torchao", cuda=False, bits=8, by_block=False, keeps=True),
}


def require(quantize: Quantize, device: torch.device) -> None:
    """This machine can hold weights so.

    Raises:
        SpecError: a package is not installed, or there is no CUDA device where it needs one.
    """
    scheme = SCHEMES.get(quantize)
    if scheme is None:
        return
    message = ""
    if importlib.util.find_spec(scheme.package) is None:
        command = install_command("vader-core[quantize]")
        message = f"it needs {scheme.package}, which is not installed. Run `{command}`, or"
    elif scheme.cuda and device.type != "cuda":
        message = f"{scheme.package} quantises on a CUDA device; this run is on {device.type}. Use torchao_int8, or"
    if message:
        raise SpecError([Problem("backbone.options.quantize", f"{quantize!r}: {message} set it to none.")])


def configuration(quantize: Quantize, kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Diffusers' own configuration: the linear layers of the blocks that repeat are quantised, no others.

    Args:
        quantize: not none.
        kind: class of the denoiser.
        config: the denoiser's.
        dtype: that layers compute in.
    """
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    from vader.weights.meta_init import meta_network

    left_out = _outside_blocks(meta_network(kind, config, dtype))
    if quantize == "bnb_nf4":
        settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype, "bnb_4bit_use_double_quant": True}
        return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=left_out, **settings)
    if quantize == "bnb_int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left_out)
    schemes = importlib.import_module("torchao.quantization")
    chosen = schemes.Int8WeightOnlyConfig if quantize == "torchao_int8" else schemes.Float8WeightOnlyConfig
    return TorchAoConfig(chosen(), modules_to_not_convert=left_out)


def outline(denoiser: Any, quantize: Quantize) -> Any:
    """A denoiser on the meta device with its layers as a configuration would have them, in place; for estimates."""
    from torch import nn

    from vader.backbones.packed import Packed

    left_out = _outside_blocks(denoiser)
    linear = {name: layer for name, layer in denoiser.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in linear.items():
        if not any(f"{part}." in f"{name}." for part in left_out):
            owner, _, attribute = name.rpartition(".")
            scheme = SCHEMES[quantize]
            size = scheme.size(layer.out_features, layer.in_features)
            setattr(denoiser.get_submodule(owner), attribute, Packed(layer, size, keeps=scheme.keeps))
    return denoiser


def _outside_blocks(denoiser: Any) -> list[str]:
    """Names of the linear layers that stay: those outside the blocks that repeat, where a denoiser says which do, and
    what diffusers keeps in float32."""
    from torch import nn

    from vader.backbones.kernels import blocks_of

    inside = {layer for block in blocks_of(denoiser) for layer in block.modules()}
    names = [name for name, layer in denoiser.named_modules() if isinstance(layer, nn.Linear) and layer not in inside]
    return [*(names if inside else ()), *(denoiser._keep_in_fp32_modules or ())]
