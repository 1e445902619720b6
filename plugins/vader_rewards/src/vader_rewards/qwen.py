"""What the rewards on Qwen's vision-language networks have in common: tokens, patches, and towers with a score head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader import SpecError, WeightsError
from vader.sdk import Problem, meta_network, shapes_of
from vader_rewards import pixels, weights

FACTOR = 28
"""Pixels of a side that are one token: 14 of a patch, twice."""
PAD = "<|endoftext|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
"""Tokens in whose place the tower's features stand."""
_DIALOGUE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>"
    "{text}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Grid:
    """The patches of one clip or picture: in time, down and across."""

    time: int
    down: int
    across: int

    def tokens(self, merge: int = 2) -> int:
        """How many features they become."""
        return self.time * self.down * self.across // merge**2

    def tensor(self, count: int) -> Tensor:
        """``(count 3)`` int64, for as many clips of this grid."""
        return torch.tensor([[self.time, self.down, self.across]] * count)


def grid_of(frames: int, size: tuple[int, int], patch: int = 14) -> Grid:
    """Of frames of that size; a single one is taken twice."""
    return Grid(-(-frames // 2), size[0] // patch, size[1] // patch)


def patches(clips: Tensor, patch: int = 14, merge: int = 2) -> Tensor:
    """Normalised pixels as the tower takes them.

    Args:
        clips: ``(n t 3 h w)``, t even, or 1 for pictures; sides are multiples of ``patch * merge``.
        patch: its side in pixels.
        merge: patches of a side that become one feature.

    Returns:
        ``(n*t/2*h/patch*w/patch, 3*2*patch*patch)``.
    """
    if clips.shape[1] == 1:
        clips = clips.expand(-1, 2, -1, -1, -1)
    n, t, c, h, w = clips.shape
    down, across = h // (patch * merge), w // (patch * merge)
    split = clips.reshape(n, t // 2, 2, c, down, merge, patch, across, merge, patch)
    return split.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, c * 2 * patch * patch)


def ready(
    clips: Tensor,
    size: tuple[int, int],
    mean: Sequence[float] = pixels.CLIP_MEAN,
    std: Sequence[float] = pixels.CLIP_STD,
    *,
    twice: bool = False,
) -> Tensor:
    """Frames ``(n t 3 h w)`` in [0, 1], resized as 8-bit pictures are, and normalised."""
    images = clips.flatten(0, 1)
    images = pixels.resize_twice(images, size) if twice else pixels.resize(images, size, "bicubic").clamp(0, 1)
    return pixels.by_clip(pixels.normalise(images, mean, std), clips)


class Words:
    """A tokenizer of Qwen with reward tokens.

    Args:
        tokenizer: of transformers; the tokens are added to it.
        marks: the reward tokens, in order.
    """

    def __init__(self, tokenizer: Any, marks: Sequence[str]) -> None:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
        self._tokenizer = tokenizer
        self._marks = [self.number(mark) for mark in marks]
        self._pad = self.number(PAD)

    def number(self, token: str) -> int:
        """Of a token of the vocabulary."""
        return int(self._tokenizer.convert_tokens_to_ids(token))

    @property
    def size(self) -> int:
        """Of the vocabulary, reward tokens with it."""
        return len(self._tokenizer)

    def refuse(self, prompts: Sequence[str]) -> None:
        """Prompts are words: a token that means something to the network would move or multiply its scores.

        Raises:
            vader.SpecError: a prompt holds one; names both.
        """
        refuse_tokens(self._tokenizer, prompts)

    def encode(self, texts: Sequence[str], pad: str, tokens: int) -> tuple[Tensor, Tensor]:
        """A dialogue about each picture or clip, padded on the right.

        Args:
            texts: what the user says, a reward token in each place for one.
            pad: :data:`IMAGE` or :data:`VIDEO`.
            tokens: features of each.

        Returns:
            ``(n t)`` tokens, and ``(n k)`` places of the reward tokens.
        """
        whole = [_DIALOGUE.format(pads=pad * tokens, text=text) for text in texts]
        rows: list[list[int]] = self._tokenizer(whole)["input_ids"]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self._pad] * (longest - len(row)) for row in rows])
        return ids, torch.tensor([[row.index(mark) for mark in self._marks] for row in rows])


def refuse_tokens(tokenizer: Any, prompts: Sequence[str]) -> None:
    """See :meth:`Words.refuse`."""
    special = [*tokenizer.get_added_vocab()]
    for prompt in prompts:
        found = next((token for token in special if token in prompt), None)
        if found is not None:
            message = f"prompt {prompt!r} holds {found!r}, a token of the network; expected words. Remove it."
            raise SpecError([Problem("prompts", message)])


class MetaWords:
    """In the place of :class:`Words`: every text of a typical length, made of token 0.

    Args:
        length: tokens of a dialogue without its features.
        marks: how many reward tokens.
    """

    def __init__(self, length: int, marks: int) -> None:
        self._length, self._count = length, marks

    def refuse(self, prompts: Sequence[str]) -> None:
        """Nothing is refused."""

    def encode(self, texts: Sequence[str], pad: str, tokens: int) -> tuple[Tensor, Tensor]:
        """See :meth:`Words.encode`."""
        whole = self._length + tokens
        return torch.zeros(len(texts), whole, dtype=torch.long), torch.full((len(texts), self._count), whole - 1)


class Scorer(nn.Module):
    """Qwen2-VL with a score head at its reward tokens.

    Args:
        tower: ``Qwen2VLModel``.
        rm_head: ``(... d)`` of float32 or wider -> scores.
    """

    def __init__(self, tower: nn.Module, rm_head: nn.Module) -> None:
        super().__init__()
        self.tower, self.rm_head = tower, rm_head

    def forward(self, seen: Tensor, grid: Tensor, ids: Tensor, places: Tensor, kind: str) -> Tensor:
        """Scores ``(n k outputs)``.

        The positions are 0, 1, 2, ... on every axis, not M-RoPE's: so the published weights were trained.

        Args:
            seen: of :func:`patches`.
            grid: ``(n 3)``.
            ids: ``(n t)``.
            places: ``(n k)``.
            kind: ``image`` or ``video``.
        """
        name = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}[kind]
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, len(ids), -1)
        inputs = {name[0]: seen, name[1]: grid}
        hidden = self.tower(input_ids=ids, position_ids=positions, use_cache=False, **inputs).last_hidden_state
        index = places[..., None].expand(-1, -1, hidden.shape[-1])
        chosen = hidden.gather(1, index)
        return self.rm_head(chosen.to(pixels.wide(chosen.dtype)))


def published(name: str) -> str:
    """What transformers 4.45, and so every published file, calls a weight of ``Qwen2VLModel``."""
    return "model." + name.removeprefix("language_model.") if name.startswith("language_model.") else name


def tower(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
    what: str,
    dtype: torch.dtype,
    quantization: Mapping[str, Any] | None,
) -> Any:
    """``Qwen2VLModel`` from tensors by their published names; the rows of its embedding are those of the file.

    Args:
        config: of the base model, as in its ``config.json``.
        tensors: of the tower alone.
        path: of their file, for errors.
        what: they belong to, for errors.
        dtype: of the weights.
        quantization: see :func:`vader_rewards.weights.large_model`.

    Raises:
        vader.WeightsError: a weight is missing, too many or of another size.
    """
    from transformers import Qwen2VLConfig, Qwen2VLModel

    table = tensors.get("model.embed_tokens.weight")
    rows = {} if table is None else {"vocab_size": table.shape[0]}
    sized = with_text(config, **rows)
    expected = shapes_of(meta_network(Qwen2VLModel, sized, dtype).state_dict())
    ours = weights.fit(tensors, expected, path, what, published)
    return weights.large_model(Qwen2VLModel, Qwen2VLConfig.from_dict(sized), ours, dtype, quantization)


def with_text(config: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """A configuration with settings of its text model, in either of the two places where files have them."""
    nested = config.get("text_config")
    return {**config, "text_config": {**nested, **settings}} if isinstance(nested, Mapping) else {**config, **settings}


def base_config(source: Path, name: str) -> dict[str, Any]:
    """The configuration of a base model's folder.

    Raises:
        vader.WeightsError: it is missing, or is not that of a Qwen2-VL.
    """
    found = weights.configuration(source, name)
    if found.get("model_type") != "qwen2_vl":
        raise WeightsError(f"`base: {name}` is a {found.get('model_type')}; expected a qwen2_vl.")
    return found


def linear(width: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    """The head of VideoReward: no bias; float32 or wider."""
    return nn.Linear(width, outputs, bias=False, dtype=pixels.wide(dtype))


def ranking(width: int, dtype: torch.dtype) -> nn.Module:
    """The head of HPSv3: float32 or wider."""
    kind = pixels.wide(dtype)
    first, second, last = (nn.Linear(a, b, dtype=kind) for a, b in pairwise((width, 1024, 16, 2)))
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(0.05), second, nn.ReLU(), last)


def token_head(tensors: Mapping[str, Tensor], path: Path, tower: Any, tokens: int, dtype: torch.dtype) -> nn.Module:
    """The head of VideoReward, with one output for all reward tokens or one for each, whichever its file has.

    Raises:
        vader.WeightsError: it is missing or of another size.
    """
    outputs = tensors["weight"].shape[0] if "weight" in tensors else 1
    if outputs not in (1, tokens):
        raise WeightsError(f"{path}: rm_head.weight has {outputs} outputs; expected 1 or {tokens}.")
    return filled(linear(tower.config.text_config.hidden_size, outputs, dtype), tensors, path)


def ranking_head(tensors: Mapping[str, Tensor], path: Path, width: int, dtype: torch.dtype) -> nn.Module:
    """The head of HPSv3.

    Raises:
        vader.WeightsError: a weight is missing or of another size.
    """
    return filled(ranking(width, dtype), tensors, path)


def filled(head: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A score head with its weights, frozen; published names begin with ``rm_head.``."""
    named = {f"rm_head.{name.removeprefix('rm_head.')}": tensor for name, tensor in tensors.items()}
    ours = weights.fit(named, shapes_of(head.state_dict()), path, "its score head", "rm_head.{}".format)
    head.load_state_dict(ours)
    return head.requires_grad_(False).eval()


def scorer(tower: Any, head: nn.Module, words: Words, path: Path) -> Scorer:
    """A tower with its score head, whose vocabulary is that of the tokenizer.

    Raises:
        vader.WeightsError: it is not: they do not belong together.
    """
    rows = tower.config.text_config.vocab_size
    if rows < words.size:
        raise WeightsError(
            f"{path} knows {rows} tokens, but the tokenizer has {words.size} with the reward tokens. They do not "
            "belong together: set `base` to the model that the weights were trained on."
        )
    return Scorer(tower, head)


def outlined(config: Mapping[str, Any], head: Callable[[int, torch.dtype], nn.Module], dtype: torch.dtype) -> Scorer:
    """A tower and its head on the meta device."""
    from transformers import Qwen2VLModel

    network = meta_network(Qwen2VLModel, config, dtype)
    with torch.device("meta"):
        return Scorer(network, head(config["hidden_size"], dtype)).requires_grad_(False).eval()
