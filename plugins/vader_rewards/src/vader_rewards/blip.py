"""The networks of ImageReward: BLIP's encoders by the classes of transformers, and a linear head."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vader import WeightsError
from vader.sdk import first_line, shapes_of
from vader_rewards import pixels, weights
from vader_rewards.heads import Head

FILE, TEXT_CONFIG = "ImageReward.pt", "med_config.json"
TOKENS = 35
"""Of a prompt; longer ones are cut."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw score over the data that ImageReward was trained on."""
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
_PREFIX = {"vision": "blip.visual_encoder.", "text": "blip.text_encoder.", "head": "mlp."}
_VISION = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers.", "blocks."),
    ("post_layernorm", "norm"),
    ("layer_norm", "norm"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn.", "attn."),
)
"""What transformers calls a weight of the image tower, and what ImageReward calls it."""
_MLP = (1024, 128, 64, 16, 1)
_LAYERS = (0, 2, 4, 6, 7)
"""Which of the published head's modules are linear layers; the others are dropout."""
PUBLISHED_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 16,
    "image_size": 224,
}
PUBLISHED_TEXT = {"vocab_size": 30524, "layer_norm_eps": 1e-12}


_UNASKED = dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"), 0)
"""Numbers of tokens that only a writer of texts needs; the defaults are beyond a small vocabulary."""


class Network(nn.Module):
    """BLIP's two encoders and the score head."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: Head) -> None:
        super().__init__()
        self.vision, self.text, self.head = vision, text, head

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Normalised pixels ``(n 3 s s)``, tokens and mask ``(n t)`` -> ``(n,)``."""
        seen = self.vision(pixel_values=images.to(next(self.vision.parameters()).dtype)).last_hidden_state
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False).last_hidden_state
        raw: Tensor = self.head(read[:, 0].to(pixels.wide(read.dtype)))
        return (raw - MEAN) / STD


def tokens(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, each ``(n t)`` int64."""
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return found.input_ids, found.attention_mask


def build(vision: Mapping[str, Any], text: Mapping[str, Any], head_inputs: int, dtype: torch.dtype) -> Network:
    """Networks of these sizes, where new tensors are made."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    eyes = BlipVisionModel(BlipVisionConfig(**vision, layer_norm_eps=1e-6)).to(dtype)
    settings = {**text, "encoder_hidden_size": vision["hidden_size"], "is_decoder": True, **_UNASKED}
    reader = BlipTextModel(BlipTextConfig(**settings), add_pooling_layer=False).to(dtype)
    widths = (head_inputs, *_MLP)
    layers = [nn.Linear(a, b, dtype=pixels.wide(dtype)) for a, b in pairwise(widths)]
    return Network(eyes, reader, Head(layers, "none", "none")).requires_grad_(False).eval()


def load(source: Path, name: str, heads: int | None, dtype: torch.dtype) -> Network:
    """The networks of a folder, their sizes from its files."""
    path = source / FILE
    if not path.is_file():
        raise WeightsError(f"`weights: {name}` has no {FILE}. Fetch it with `hf download THUDM/ImageReward`.")
    tensors = {name: tensor for name, tensor in weights.state(path).items() if not name.startswith(_UNUSED)}
    text = _text_config(source, name)
    with torch.random.fork_rng(devices=[]):  # its first weights are random
        network = build(_vision_sizes(tensors, path, heads), text, text["hidden_size"], dtype)
    network.load_state_dict(weights.fit(tensors, shapes_of(network.state_dict()), path, "ImageReward", published_name))
    return network


def published_name(name: str) -> str:
    """What ImageReward's file calls a weight of :class:`Network`."""
    part, _, rest = name.partition(".")
    if part == "vision":
        for ours, theirs in _VISION:
            rest = rest.replace(ours, theirs)
    if part == "head":
        _, index, kind = rest.split(".")
        rest = f"layers.{_LAYERS[int(index)]}.{kind}"
    return _PREFIX[part] + rest


def _text_config(source: Path, name: str) -> dict[str, Any]:
    """What med_config.json says of the text encoder."""
    path = source / TEXT_CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        optional = ("max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id")
        return {key: found[key] for key in known} | {key: found[key] for key in optional if key in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"`weights: {name}`: {TEXT_CONFIG} is missing or not what ImageReward has: {first_line(error)}. "
            "Fetch it with `hf download THUDM/ImageReward`."
        ) from error


def _vision_sizes(tensors: Mapping[str, Tensor], path: Path, heads: int | None) -> dict[str, int]:
    """Sizes of the image tower, from its tensors."""
    prefix = _PREFIX["vision"]
    blocks = {name.split(".")[3] for name in tensors if name.startswith(f"{prefix}blocks.")}
    try:
        width, patch = (tensors[f"{prefix}patch_embed.proj.weight"].shape[axis] for axis in (0, 3))
        places = tensors[f"{prefix}pos_embed"].shape[1] - 1
        inner = tensors[f"{prefix}blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{path} does not hold the weights of ImageReward: {first_line(error)} is missing."
        ) from error
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads or max(1, width // (64 if width >= 128 else 16)),
        "patch_size": patch,
        "image_size": patch * round(places**0.5),
    }
