"""Writes a tiny Wan pipeline with random weights: the real classes and folder layout at toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_diffusers.tiny FOLDER

Clips of 5 or 9 frames of 32 x 32 are a good size for it. Its pictures mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import WanPipeline

TEXT_WIDTH = 32


def write(folder: str | Path, seed: int = 0) -> Path:
    """Write the pipeline, a few megabytes.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
    """
    build(seed).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def build(seed: int = 0) -> WanPipeline:
    """The pipeline in float32 on the CPU, in evaluation mode, with the scheduler of Wan 2.1 at 480p."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, text_dim=TEXT_WIDTH, freq_dim=32, ffn_dim=64, num_layers=2
        )
        vae = AutoencoderKLWan(base_dim=8, num_res_blocks=1)
        text_encoder = _text_encoder()
    return WanPipeline(
        tokenizer=_tokenizer(),
        text_encoder=text_encoder.eval(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer.eval(),
    )


def _vocabulary() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    return {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())])}


def _tokenizer() -> Any:
    """One token per byte, and ``</s>`` at the end: no text is unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def _text_encoder() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=len(_vocabulary()),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return UMT5EncoderModel(config)


def main() -> None:
    """Command line: ``python -m vader_diffusers.tiny FOLDER``."""
    parser = argparse.ArgumentParser(
        prog="python -m vader_diffusers.tiny", description="Write a tiny random Wan pipeline."
    )
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed)}")


if __name__ == "__main__":
    main()
