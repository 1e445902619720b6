"""For components with ``meta_init`` (:class:`vader.protocols.MetaBuildable`): networks and tokenizers without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn


class Place(Protocol):
    """Stands in for ``nn.Module.to`` in `meta_init`."""

    def __call__(self, module: Any, device: Any, /) -> Any:
        """Say where a module on the meta device would live; gives it back, unmoved."""
        ...


def meta_network(kind: Any, config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A network of diffusers or transformers on the meta device, from its configuration alone.

    Its dtypes are those that ``from_pretrained(dtype=dtype)`` gives: some parts a library keeps in float32.

    Args:
        kind: the class.
        config: as in its ``config.json``.
        dtype: of the weights.
    """
    import torch

    with torch.device("meta"):
        if hasattr(kind, "from_config") and hasattr(kind, "load_config"):  # diffusers
            module: nn.Module = kind.from_config(dict(config))
            kept = set(kind._keep_in_fp32_modules or ())
        else:
            module = kind._from_config(kind.config_class.from_dict(dict(config)))
            kept = set(module._keep_in_fp32_modules or ()) if dtype == torch.float16 else set()  # type: ignore[arg-type]
            kept |= set(module._keep_in_fp32_modules_strict or ())  # type: ignore[arg-type]
    for name, parameter in module.named_parameters():
        wide = any(part in kept for part in name.split("."))
        parameter.data = parameter.data.to(torch.float32 if wide else dtype)
    return module


class MetaTokens:
    """In the place of a tokenizer of transformers: every text is as long as it may be, and made of token 0.

    Args:
        model_max_length: tokens of a text where a call names no length.
    """

    def __init__(self, model_max_length: int = 512) -> None:
        self.model_max_length = model_max_length

    def __call__(self, texts: Sequence[str], *, max_length: int | None = None, **_: Any) -> Any:
        """``input_ids`` and ``attention_mask``, each ``(n max_length)`` int64."""
        import torch
        from transformers import BatchEncoding

        ids = torch.zeros(len(texts), max_length or self.model_max_length, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def apply_chat_template(self, chats: Sequence[Any], *, max_length: int | None = None, **_: Any) -> Any:
        """Of ``n`` conversations, as of texts."""
        return self(chats, max_length=max_length)
