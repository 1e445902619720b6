"""Tiny pipelines of LTX-Video, HunyuanVideo, SkyReels-V2 and Mochi; see :mod:`vader_diffusers.tiny`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vader import sdk
from vader_diffusers import tiny_wan

SMALL = {"num_attention_heads": 2, "num_layers": 2}
"""Of every transformer here."""
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }} {% endfor %}"


def skyreels_v2(**sizes: Any) -> Any:
    """SkyReels-V2, with the shift that its authors advise."""
    from diffusers import SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel

    small = {**SMALL, "attention_head_dim": 16, "text_dim": sdk.TEXT_WIDTH, "freq_dim": 32, "ffn_dim": 64}
    net = SkyReelsV2Transformer3DModel(**{**small, "rope_max_seq_len": 32, **sizes})
    return SkyReelsV2Pipeline(**tiny_wan.rest(8.0), transformer=net.eval())


def ltx(**sizes: Any) -> Any:
    """LTX-Video 0.9.1, whose decoder takes a timestep."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    small = {**SMALL, "in_channels": 8, "out_channels": 8, "attention_head_dim": 16, "cross_attention_dim": 32}
    net = LTXVideoTransformer3DModel(**{**small, "caption_channels": sdk.TEXT_WIDTH, **sizes})
    up = {"decoder_inject_noise": (False,) * 4, "upsample_residual": (True,) * 3, "upsample_factor": (2,) * 3}
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        decoder_spatio_temporal_scaling=(True,) * 3,
        timestep_conditioning=True,
        **up,
    )
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
    scheduler = FlowMatchEulerDiscreteScheduler(**dynamic, base_image_seq_len=4, max_image_seq_len=64)
    return LTXPipeline(scheduler, vae.eval(), sdk.tiny_t5(), sdk.byte_tokenizer(), net.eval())


def mochi(**sizes: Any) -> Any:
    """Mochi 1."""
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

    small = {**SMALL, "attention_head_dim": 16, "pooled_projection_dim": 16, "text_embed_dim": sdk.TEXT_WIDTH}
    net = MochiTransformer3DModel(**{**small, "time_embed_dim": 8, **sizes})
    net.pos_frequencies.data.normal_()  # diffusers starts them at zero
    widths = {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
    vae = AutoencoderKLMochi(**widths, layers_per_block=(1,) * 5)
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, vae.eval(), sdk.tiny_t5(), sdk.byte_tokenizer(256), net.eval())


def hunyuan_video15(**sizes: Any) -> Any:
    """HunyuanVideo 1.5, with its scheduler at 480p."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import ByT5Tokenizer, Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    small = {**SMALL, "in_channels": 9, "out_channels": 4, "attention_head_dim": 8, "num_refiner_layers": 1}
    text = {"text_embed_dim": 16, "text_embed_2_dim": sdk.TEXT_WIDTH, "image_embed_dim": 12}
    net = HunyuanVideo15Transformer3DModel(**{**small, **text, "rope_axes_dim": (2, 2, 4), "mlp_ratio": 2.0, **sizes})
    vae = AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    tokenizer = sdk.byte_tokenizer(2048)
    tokenizer.chat_template = CHAT
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}
    sized = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    sized |= {"bos_token_id": 0, "eos_token_id": 1, "num_hidden_layers": 3}
    qwen = Qwen2_5_VLTextConfig(vocab_size=len(tokenizer), rope_parameters=rope, **sized)
    return HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(qwen).eval(),
        tokenizer=tokenizer,
        transformer=net.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=sdk.tiny_t5(384),
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )


def hunyuan_video(**sizes: Any) -> Any:
    """HunyuanVideo 1.0."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, LlamaConfig, LlamaModel

    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_single_layers": 1}
    small |= {"num_refiner_layers": 1, "mlp_ratio": 2.0, "guidance_embeds": True, "rope_axes_dim": (2, 2, 4)}
    text = {"text_embed_dim": 16, "pooled_projection_dim": 16}
    net = HunyuanVideoTransformer3DModel(**{**small, **text, "in_channels": 4, "out_channels": 4, **sizes})
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    tokenizer, letters = sdk.byte_tokenizer(2048), sdk.byte_vocabulary()
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sized = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    clip = CLIPTextConfig(vocab_size=len(vocabulary), projection_dim=16, pad_token_id=0, **ends, **sized)
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **sized)).eval(),
        tokenizer=tokenizer,
        transformer=net.eval(),
        vae=vae.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip).eval(),
        tokenizer_2=CLIPTokenizer(vocab={name: i for i, name in enumerate(vocabulary)}, merges=[], model_max_length=77),
    )


FAMILIES: dict[str, Callable[..., Any]] = {
    "skyreels_v2": skyreels_v2,
    "ltx": ltx,
    "mochi": mochi,
    "hunyuan_video15": hunyuan_video15,
    "hunyuan_video": hunyuan_video,
}
"""Family -> its tiny pipeline."""
