"""Which kernels a denoiser of diffusers runs on: compiled blocks, and a backend of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vader.errors import Problem, SpecError
from vader.weights.files import first_line

if TYPE_CHECKING:
    from torch import nn

Attention = Literal["sdpa", "cudnn", "flash", "xformers"]
_BACKENDS = {"cudnn": "_native_cudnn", "flash": "flash", "xformers": "xformers"}
"""Attention -> its name in diffusers; sdpa is what a denoiser has anyway."""


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """The blocks that repeat in a denoiser, by the class names that its networks tell diffusers."""
    found: dict[int, nn.Module] = {}
    for network in denoiser.modules():
        names = getattr(network, "_repeated_blocks", None) or getattr(network, "_no_split_modules", None) or ()
        found |= {id(block): block for block in network.modules() if type(block).__name__ in names}
    return list(found.values())


def compile_blocks(denoiser: nn.Module, **options: Any) -> None:
    """Compile each block that repeats, in place; equal blocks share what is compiled.

    Names of parameters stay, and adapters, their scale and gradient checkpointing may change afterwards: what depends
    on them is compiled anew, once for each state.

    Args:
        denoiser: with its adapter.
        options: for :func:`torch.compile`.

    Raises:
        SpecError: the denoiser does not say which blocks repeat, or they fetch their weights.
    """
    blocks = blocks_of(denoiser)
    if not blocks:
        message = f"{type(denoiser).__name__} does not say which of its blocks repeat. Set it to false."
        raise SpecError([Problem("train.compile", message)])
    if any(block._forward_pre_hooks for block in blocks):
        message = "blocks whose weights are fetched as they run cannot be compiled. Set it to false, or "
        raise SpecError([Problem("train.compile", f"{message}backbone.options.block_offload to keep.")])
    for block in blocks:
        block.compile(**options)


def choose_attention(denoiser: nn.Module, attention: Attention) -> None:
    """Let a denoiser's attention run on a backend.

    Raises:
        SpecError: its packages are not installed, or the denoiser's attention takes no backend.
    """
    if attention == "sdpa":
        return
    path, backend, taken = "backbone.options.attention", _BACKENDS[attention], False
    for network in denoiser.modules():
        if callable(getattr(network, "set_attention_backend", None)):
            _set_backend(network, backend, path, attention)
        taken |= getattr(getattr(network, "processor", None), "_attention_backend", None) is not None
    if not taken:
        message = f"attention of {type(denoiser).__name__} takes no backend. Use sdpa."
        raise SpecError([Problem(path, message)])


def _set_backend(network: Any, backend: str, path: str, attention: str) -> None:
    """By diffusers' own method, which changes the default of all other networks besides: that is put back."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    active, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        network.set_attention_backend(backend)
    except (ImportError, RuntimeError, ValueError) as error:
        message = f"{attention!r} cannot be had: {first_line(error)} Use sdpa."
        raise SpecError([Problem(path, message)]) from error
    finally:
        _AttentionBackendRegistry.set_active_backend(active)
