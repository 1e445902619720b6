"""Tiny networks of images or clips and text."""

from __future__ import annotations

import json
from pathlib import Path

from vader import sdk
from vader_rewards.tiny.parts import FEATURES, PATCH, SIDE, WIDTH, spread, tower


def clip(folder: Path) -> None:
    """A ``CLIPModel`` and its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = sdk.byte_tokenizer()
    text = tower(vocab_size=len(tokenizer), projection_dim=FEATURES, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    vision = tower(image_size=SIDE, patch_size=PATCH, projection_dim=FEATURES)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES)
    spread(CLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_clip(folder: Path) -> None:
    """A CLIP of open_clip, where that is installed."""
    import torch
    from safetensors.torch import save_file

    try:
        from open_clip import CLIP
    except ImportError:  # the extra `clip` is not installed, and nothing here could read the folder
        return
    sizes = {"width": WIDTH, "layers": 2}
    config = {
        "embed_dim": FEATURES,
        "vision_cfg": {"image_size": SIDE, "patch_size": PATCH, "head_width": 8, **sizes},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "heads": 4, **sizes},
    }
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}), encoding="utf-8")
    network = spread(CLIP(**config))
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    save_file(tensors, folder / "open_clip_model.safetensors")


def image_reward(folder: Path) -> None:
    """ImageReward's checkpoint, as published."""
    import torch

    from vader_rewards import blip

    tokenizer = sdk.byte_tokenizer()
    text = tower(vocab_size=len(tokenizer), max_position_embeddings=64)
    vision = tower(image_size=SIDE, patch_size=PATCH, num_attention_heads=2)
    network = spread(blip.build(vision, text, WIDTH, torch.float32))
    folder.mkdir(exist_ok=True)
    tensors = {blip.published_name(name): tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, folder / blip.FILE)
    (folder / blip.TEXT_CONFIG).write_text(json.dumps(text), encoding="utf-8")
    tokenizer.save_pretrained(folder / "bert-base-uncased")


def xclip(folder: Path) -> None:
    """An ``XCLIPModel`` and its tokenizer."""
    from transformers import XCLIPConfig, XCLIPModel

    tokenizer = sdk.byte_tokenizer()
    text = tower(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, pad_token_id=0)
    small = {"mit_hidden_size": FEATURES, "mit_intermediate_size": WIDTH, "mit_num_attention_heads": 2}
    vision = tower(image_size=SIDE, patch_size=PATCH, num_frames=4, **small)
    config = XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=FEATURES, prompt_layers=1, prompt_num_attention_heads=2
    )
    spread(XCLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
