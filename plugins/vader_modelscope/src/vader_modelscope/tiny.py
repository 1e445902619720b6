"""Writes a tiny ModelScope pipeline with random weights: the real classes and folder layout at toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_modelscope.tiny FOLDER

Clips of 2 to 8 frames of 32 x 32 are a good size for it. Its pictures mean nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import TextToVideoSDPipeline

TEXT_WIDTH = 16
TOKENS = 77
GROUPS = 8
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""What the published folder says; what is left out takes the default of whichever scheduler reads it."""


def write(folder: str | Path, seed: int = 0, variant: str | None = None) -> Path:
    """Write the pipeline, about two megabytes.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
        variant: in the names of the weight files, which with ``fp16`` also are of that type; None for float32.
    """
    import torch

    pipeline = build(seed)
    if variant == "fp16":
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True, variant=variant)
    path = Path(folder) / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(SCHEDULER, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def build(seed: int = 0) -> TextToVideoSDPipeline:
    """The pipeline in float32 on the CPU, in evaluation mode."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet()
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16,) * 4,
            norm_num_groups=GROUPS,
        )
        text_encoder = _text_encoder()
    return TextToVideoSDPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=_tokenizer(),
        unet=unet.eval(),
        scheduler=DDIMScheduler.from_config(SCHEDULER),
    )


def _unet() -> Any:
    """The UNet; diffusers starts its temporal convolutions at zero, here they are random, so that every path counts."""
    from diffusers import UNet3DConditionModel
    from torch import nn

    unet = UNet3DConditionModel(
        sample_size=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=GROUPS,
    )
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return unet


def _text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = _vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=TEXT_WIDTH,
        hidden_act="gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return CLIPTextModel(config)


def _vocabulary() -> dict[str, int]:
    """Every byte, within a word and at its end, so that no text is unknown."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=TOKENS)


def main() -> None:
    """Command line: ``python -m vader_modelscope.tiny FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python -m vader_modelscope.tiny", description="Write a tiny random ModelScope pipeline."
    )
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--variant", choices=["fp16"], help="write weights of this variant")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed, arguments.variant)}")


if __name__ == "__main__":
    main()
