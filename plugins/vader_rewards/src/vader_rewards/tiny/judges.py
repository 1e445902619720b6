"""A tiny vision-language model, and the rewards that are one with a head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vader_rewards.tiny.parts import WIDTH, spread, tower


def qwen2_vl(folder: Path) -> None:
    """A base model, as ``Qwen/Qwen2-VL-2B-Instruct`` is one; its tokenizer knows the judges' questions well."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = _dialogue_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            **tower(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=8192),
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
    spread(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def video_reward(folder: Path) -> None:
    """VideoReward's checkpoint, as published, on ``qwen2_vl`` beside it."""
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


def hpsv3(folder: Path) -> None:
    """HPSv3's checkpoint, as published, on ``qwen2_vl`` beside it."""
    import torch
    from safetensors.torch import save_file

    from vader_rewards import qwen
    from vader_rewards.hpsv3 import FILE

    head = spread(qwen.ranking(WIDTH, torch.float32)).state_dict()
    tensors = {**_judge(folder, 1), **{f"rm_head.{name}": tensor for name, tensor in head.items()}}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / FILE)


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


_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% for content in message['content'] %}{% if content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""How a dialogue about a clip is put, as Qwen-VL's own templates do it."""
