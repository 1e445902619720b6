"""Writes tiny networks with random weights for every reward whose own are large: real classes and layouts, toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_rewards.tiny FOLDER

Then ``weights: FOLDER/clip`` and ``head: FOLDER/head.safetensors`` for aesthetic, compression and weather,
``FOLDER/image_reward``, ``FOLDER/video_reward`` and ``FOLDER/hpsv3`` (this one with ``base: FOLDER/qwen2_vl``) for
imagereward, videoreward and hpsv3, ``FOLDER/open_clip`` for hps (``weights``) and clip_text (``model``),
``FOLDER/clip`` for pickscore (and its ``tokenizer``), and ``FOLDER/yolos``, ``grounding_dino``, ``videomae``,
``vjepa``, ``qwen2_vl`` (for vlm_question), ``xclip`` (video_text), ``dinov2`` (image_fidelity). Their scores mean
nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WIDTH, SIDE, PATCH, FEATURES = 32, 32, 8, 16
OBJECTS = ("person", "dog", "book", "cup")
ACTIONS = ("playing piano", "playing guitar", "chopping wood", "jogging")


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write all of them, a few megabytes.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
    """
    import torch

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for name, save in WRITERS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            save(root / name)
    return root


def _spread(network: Any) -> Any:
    """Larger random weights than a network starts with, so that images that differ have features that differ."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return network.eval()


def _tower(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **more,
    }


def _clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = _tokenizer()
    text = _tower(vocab_size=len(tokenizer), projection_dim=FEATURES, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    vision = _tower(image_size=SIDE, patch_size=PATCH, projection_dim=FEATURES)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=FEATURES)
    _spread(CLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _open_clip(folder: Path) -> None:
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
    network = _spread(CLIP(**config))
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    save_file(tensors, folder / "open_clip_model.safetensors")


def _head(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for index, (inputs, outputs) in enumerate([(FEATURES, WIDTH), (WIDTH, 8), (8, 1)]):
        tensors[f"layers.{2 * index}.weight"] = torch.randn(outputs, inputs) * inputs**-0.5
        tensors[f"layers.{2 * index}.bias"] = torch.randn(outputs) * 0.1
    save_file(tensors, path)


def _yolos(folder: Path) -> None:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        **_tower(image_size=[64, 64], patch_size=16, num_detection_tokens=6, id2label=dict(enumerate(OBJECTS)))
    )
    _spread(YolosForObjectDetection(config)).save_pretrained(folder)
    _sizes(folder)


def _grounding_dino(folder: Path) -> None:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    tokenizer = _tokenizer()
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
        text_config=BertConfig(**_tower(vocab_size=1100, max_position_embeddings=64)),
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


def _videomae(folder: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        **_tower(image_size=SIDE, patch_size=PATCH, num_frames=4, tubelet_size=2, id2label=dict(enumerate(ACTIONS)))
    )
    _spread(VideoMAEForVideoClassification(config)).save_pretrained(folder)


def _vjepa(folder: Path) -> None:
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
    _spread(VJEPA2Model(config)).save_pretrained(folder)


def _image_reward(folder: Path) -> None:
    import torch

    from vader_rewards import blip

    tokenizer = _tokenizer()
    text = _tower(vocab_size=len(tokenizer), max_position_embeddings=64)
    vision = _tower(image_size=SIDE, patch_size=PATCH, num_attention_heads=2)
    network = _spread(blip.build(vision, text, WIDTH, torch.float32))
    folder.mkdir(exist_ok=True)
    tensors = {blip.published_name(name): tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, folder / blip.FILE)
    (folder / blip.TEXT_CONFIG).write_text(json.dumps(text), encoding="utf-8")
    tokenizer.save_pretrained(folder / "bert-base-uncased")


def _qwen2_vl(folder: Path) -> None:
    """A base model, as ``Qwen/Qwen2-VL-2B-Instruct`` is one; its tokenizer knows the judges' questions well."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = _dialogue_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            **_tower(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=8192),
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    _spread(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _judge(folder: Path, marks: int) -> dict[str, Any]:
    """Weights of a base model by their published names, with as many more tokens."""
    import torch
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    from vader_rewards import qwen

    base = folder.parent / "qwen2_vl"
    network = Qwen2VLForConditionalGeneration.from_pretrained(base)
    network.resize_token_embeddings(len(AutoTokenizer.from_pretrained(base)) + marks, mean_resizing=False)
    folder.mkdir(exist_ok=True)
    found = {qwen.published(name): tensor for name, tensor in network.model.state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    return found


def _video_reward(folder: Path) -> None:
    import torch

    from vader_rewards import video_reward_files as files

    prefix = "base_model.model."
    tensors = {f"{prefix}{name}": tensor for name, tensor in _judge(folder, 3).items()}
    tensors[f"{prefix}rm_head.weight"] = torch.randn(1, WIDTH) * WIDTH**-0.5
    config = {
        "data_config": {
            "max_frame_pixels": 3136,
            "fps": 2.0,
            "num_frames": None,
            "prompt_template_type": "detailed_special",
            "sample_type": "uniform",
        },
        "model_config": {"model_name_or_path": str(folder.parent / "qwen2_vl"), "use_special_tokens": True},
        "peft_lora_config": {"lora_r": 4, "lora_alpha": 8},
    }
    (folder / files.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (folder / "checkpoint-1").mkdir(exist_ok=True)
    torch.save(tensors, folder / "checkpoint-1" / files.WHOLE)


def _hpsv3(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from vader_rewards import qwen
    from vader_rewards.hpsv3 import FILE

    head = _spread(qwen.ranking(WIDTH, torch.float32)).state_dict()
    tensors = {**_judge(folder, 1), **{f"rm_head.{name}": tensor for name, tensor in head.items()}}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE)


_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for content in message['content'] %}{% if content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""How a dialogue about a clip is put, as Qwen-VL's own templates do it."""


def _xclip(folder: Path) -> None:
    from transformers import XCLIPConfig, XCLIPModel

    tokenizer = _tokenizer()
    text = _tower(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, pad_token_id=0)
    small = {"mit_hidden_size": FEATURES, "mit_intermediate_size": WIDTH, "mit_num_attention_heads": 2}
    vision = _tower(image_size=SIDE, patch_size=PATCH, num_frames=4, **small)
    config = XCLIPConfig(
        text_config=text, vision_config=vision, projection_dim=FEATURES, prompt_layers=1, prompt_num_attention_heads=2
    )
    _spread(XCLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dinov2(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(**_tower(image_size=SIDE, patch_size=PATCH, mlp_ratio=2))
    _spread(Dinov2Model(config)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes), encoding="utf-8")


def _dialogue_tokenizer() -> Any:
    """Byte pairs of the judges' questions, and Qwen's tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from vader_rewards.templates import ask

    tokens = ["endoftext", "im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
    special = [f"<|{token}|>" for token in tokens]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    questions = [ask(name, "Does the clip show this? Answer Yes or No.") for name in ("videoreward", "hpsv3")]
    tokenizer.train_from_iterator([*questions * 2, "Yes\nNo\n" * 50], trainer)
    words = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[2], additional_special_tokens=special[1:]
    )
    words.chat_template = _TEMPLATE
    return words


def _tokenizer() -> Any:
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


WRITERS: dict[str, Callable[[Path], None]] = {
    "clip": _clip,
    "open_clip": _open_clip,
    "head.safetensors": _head,
    "yolos": _yolos,
    "grounding_dino": _grounding_dino,
    "videomae": _videomae,
    "vjepa": _vjepa,
    "image_reward": _image_reward,
    "qwen2_vl": _qwen2_vl,
    "video_reward": _video_reward,
    "hpsv3": _hpsv3,
    "xclip": _xclip,
    "dinov2": _dinov2,
}


def main() -> None:
    """Command line: ``python -m vader_rewards.tiny FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python -m vader_rewards.tiny", description="Write tiny random networks for the rewards."
    )
    parser.add_argument("folder", type=Path, help="where to write them")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed)}")


if __name__ == "__main__":
    main()
