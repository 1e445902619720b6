"""What tiny networks are made of: sizes, random weights that tell images apart, a tokenizer."""

from __future__ import annotations

from typing import Any

WIDTH, SIDE, PATCH, FEATURES = 32, 32, 8, 16


def spread(network: Any) -> Any:
    """Larger random weights than a network starts with, so that images that differ have features that differ."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network.eval()


def tower(**more: Any) -> dict[str, Any]:
    """The configuration of a transformer: its sizes, and what else is given."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **more,
    }


def byte_tokenizer() -> Any:
    """One token per byte, and ``</s>`` at the end: no text is unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
