"""What of a text a text encoder does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def beyond(tokenizer: Any, text: str, limit: int) -> str:
    """The end of a text that is cut off when a tokenizer of transformers encodes it.

    Args:
        tokenizer: of transformers.
        text: of a prompt.
        limit: tokens that are taken, those of begin and end among them.

    Returns:
        Nothing when all is taken.
    """
    room = max(0, limit - tokenizer.num_special_tokens_to_add())
    if tokenizer.is_fast:
        starts = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)["offset_mapping"]
        return text[starts[room][0] :].strip() if len(starts) > room else ""

    def encode(text: str) -> list[int]:
        tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens

    return beyond_room(text, room, encode, tokenizer.decode)


def beyond_room(text: str, room: int, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> str:
    """The same of any tokenizer, as it spells tokens.

    Args:
        text: of a prompt.
        room: tokens of it that are taken.
        encode: makes its tokens.
        decode: spells tokens.
    """
    tokens = encode(text)
    return decode(tokens[room:]).strip() if len(tokens) > room else ""
