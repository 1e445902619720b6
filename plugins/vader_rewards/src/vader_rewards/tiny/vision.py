"""Tiny networks of images or clips alone, detectors, and the head on features."""

from __future__ import annotations

import json
from pathlib import Path

from vader import sdk
from vader_rewards.tiny.parts import FEATURES, PATCH, SIDE, WIDTH, spread, tower

OBJECTS = ("person", "dog", "book", "cup")
ACTIONS = ("playing piano", "playing guitar", "chopping wood", "jogging")


def head(path: Path) -> None:
    """The layers on CLIP features of aesthetic, compression and weather."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for index, (inputs, outputs) in enumerate([(FEATURES, WIDTH), (WIDTH, 8), (8, 1)]):
        tensors[f"layers.{2 * index}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        tensors[f"layers.{2 * index}.bias"] = torch.randn(outputs) * 0.1
    save_file(tensors, path)


def yolos(folder: Path) -> None:
    """A ``YolosForObjectDetection`` of :data:`OBJECTS`."""
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        **tower(image_size=[64, 64], patch_size=16, num_detection_tokens=6, id2label=dict(enumerate(OBJECTS)))
    )
    spread(YolosForObjectDetection(config)).save_pretrained(folder)
    _sizes(folder)


def grounding_dino(folder: Path) -> None:
    """A ``GroundingDinoForObjectDetection`` and its tokenizer."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    tokenizer = sdk.byte_tokenizer()
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=BertConfig(**tower(vocab_size=1100, max_position_embeddings=64)),
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        num_queries=8,
        dropout=0.0,
        disable_custom_kernels=True,
        max_text_len=32,
    )
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _sizes(folder)


def _sizes(folder: Path) -> None:
    """A processor's configuration that keeps images small."""
    sizes = {"size": {"shortest_edge": 64, "longest_edge": 96}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes), encoding="utf-8")


def videomae(folder: Path) -> None:
    """A ``VideoMAEForVideoClassification`` of :data:`ACTIONS`."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        **tower(image_size=SIDE, patch_size=PATCH, num_frames=4, tubelet_size=2, id2label=dict(enumerate(ACTIONS)))
    )
    spread(VideoMAEForVideoClassification(config)).save_pretrained(folder)


def vjepa(folder: Path) -> None:
    """A ``VJEPA2Model``."""
    from transformers import VJEPA2Config, VJEPA2Model

    config = VJEPA2Config(
        crop_size=SIDE,
        patch_size=PATCH,
        frames_per_clip=8,
        tubelet_size=2,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        pred_hidden_size=24,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=1,
        pred_num_mask_tokens=2,
    )
    spread(VJEPA2Model(config)).save_pretrained(folder)


def dinov2(folder: Path) -> None:
    """A ``Dinov2Model``."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(**tower(image_size=SIDE, patch_size=PATCH, mlp_ratio=2))
    spread(Dinov2Model(config)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes), encoding="utf-8")
