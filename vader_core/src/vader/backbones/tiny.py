"""Tokenizers and text encoders at toy sizes, for tiny checkpoints of families: the real classes, random weights.

Random weights are drawn from torch's global generator; the caller seeds it.
"""

from __future__ import annotations

from typing import Any

TEXT_WIDTH = 32
"""Width of the tiny text encoders' embeddings."""
_SPECIALS = ("<pad>", "</s>", "<unk>")


def byte_tokenizer(max_length: int = 512) -> Any:
    """One token a byte and ``</s>`` at the end, of T5's conventions: no text is unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=max_length,
    )


def byte_vocabulary() -> list[str]:
    """What tokenizers of bytes call each byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def _vocabulary() -> dict[str, int]:
    return {token: i for i, token in enumerate([*_SPECIALS, *byte_vocabulary()])}


_T5 = {"d_model": TEXT_WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "is_encoder_decoder": False}


def tiny_t5(vocabulary: int | None = None) -> Any:
    """A T5 encoder, in evaluation mode.

    Args:
        vocabulary: tokens that it knows; None for :func:`byte_tokenizer`'s.
    """
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=vocabulary or len(_vocabulary()), use_cache=False, **_T5)).eval()


def tiny_umt5() -> Any:
    """A UMT5 encoder for :func:`byte_tokenizer`, in evaluation mode."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(UMT5Config(vocab_size=len(_vocabulary()), use_cache=False, **_T5)).eval()
