"""Builds the tiny Wan pipeline: the architecture of Wan 2.1 text-to-video, about 1.8 M parameters in all.

Only the sizes are tiny; every component is the class that the full-size checkpoint uses (the tokenizer is a plain
word-level one with the same calling conventions), so one code path loads both.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vader_shapes import WEIGHTS
from vader_shapes.scenes.grammar import vocabulary

MAX_SEQUENCE_LENGTH = 20
TEXT_DIM = 64
LATENT_CHANNELS = 16
TEMPORAL_COMPRESSION = 4
SHIFT = 3.0

PIPELINE = WEIGHTS / "pipeline"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level fast tokenizer: lower-cases, appends `</s>`, pads with `<pad>`, unknown words become `<unk>`."""
    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_SEQUENCE_LENGTH,
        padding_side="right",
    )


def build_text_encoder() -> UMT5EncoderModel:
    """Two UMT5 encoder layers of width 64."""
    config = UMT5Config(
        vocab_size=len(vocabulary()),
        d_model=TEXT_DIM,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return UMT5EncoderModel(config)


def build_vae() -> AutoencoderKLWan:
    """Causal video VAE: 4k+1 frames to k+1 latent frames, 4x in height and width.

    Small objects need finer latents than Wan's 8x. As in Wan 2.2, parameter-free shortcuts run past each level (it
    trains several times faster with them).
    """
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        is_residual=True,
        scale_factor_temporal=TEMPORAL_COMPRESSION,
        scale_factor_spatial=4,
    )


def build_transformer() -> WanTransformer3DModel:
    """The denoiser: 6 Wan blocks, 4 heads of 32, one token for 8x8 pixels, about 1.6 M parameters."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=384,
        num_layers=6,
        rope_max_seq_len=64,
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Flow-matching Euler steps; sigmas follow diffusers' static shift."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)


def build_pipeline(
    vae: AutoencoderKLWan | None = None,
    transformer: WanTransformer3DModel | None = None,
    text_encoder: UMT5EncoderModel | None = None,
) -> WanPipeline:
    """Assembles a `WanPipeline`; parts that are not given are built fresh from the global torch seed."""
    pipeline = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=(text_encoder or build_text_encoder()).eval(),
        vae=(vae or build_vae()).eval(),
        scheduler=build_scheduler(),
        transformer=(transformer or build_transformer()).eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_pipeline(folder: str | Path = PIPELINE) -> WanPipeline:
    """Loads a pipeline folder offline, in float32 whatever the files hold."""
    pipeline = WanPipeline.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
