"""Tiny pipelines of the Wan family; see :mod:`vader_diffusers.tiny`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vader import sdk

CLIP = 28
"""Side of the pictures that the tiny CLIP sees, in pixels."""


def transformer(**sizes: Any) -> Any:
    """A Wan transformer of two layers."""
    from diffusers import WanTransformer3DModel

    small = {"num_attention_heads": 2, "attention_head_dim": 16, "text_dim": sdk.TEXT_WIDTH, "freq_dim": 32}
    return WanTransformer3DModel(**{**small, "ffn_dim": 64, "num_layers": 2, **sizes}).eval()


def rest(shift: float = 3.0, **vae: Any) -> dict[str, Any]:
    """The parts beside the transformers, with the shift of the scheduler."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    return {
        "text_encoder": sdk.tiny_umt5(),
        "tokenizer": sdk.byte_tokenizer(),
        "vae": AutoencoderKLWan(**{"base_dim": 8, "num_res_blocks": 1, **vae}).eval(),
        "scheduler": UniPCMultistepScheduler(**flow),
    }


def wan(**sizes: Any) -> Any:
    """Wan 2.1, with its scheduler at 480p."""
    from diffusers import WanPipeline

    net = transformer(**sizes)
    return WanPipeline(transformer=net, **rest())


def wan22(**sizes: Any) -> Any:
    """Wan 2.2 A14B."""
    from diffusers import WanPipeline

    nets = {"transformer": transformer(**sizes), "transformer_2": transformer(**sizes)}
    return WanPipeline(**nets, **rest(), boundary_ratio=0.875)


def wan_i2v(**sizes: Any) -> Any:
    """Wan 2.1 image-to-video."""
    from diffusers import WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionModel(CLIPVisionConfig(**small, image_size=CLIP, patch_size=14)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": CLIP}, crop_size={"height": CLIP, "width": CLIP})
    seen = {"in_channels": 36, "out_channels": 16, "image_dim": 16, "added_kv_proj_dim": 32}
    net = transformer(**{**seen, **sizes})
    return WanImageToVideoPipeline(transformer=net, image_encoder=vision, image_processor=processor, **rest())


def wan22_i2v(**sizes: Any) -> Any:
    """Wan 2.2 A14B image-to-video."""
    from diffusers import WanImageToVideoPipeline

    seen = {"in_channels": 36, "out_channels": 16, **sizes}
    nets = {"transformer": transformer(**seen), "transformer_2": transformer(**seen)}
    return WanImageToVideoPipeline(**nets, **rest(), boundary_ratio=0.9)


def wan22_ti2v(**sizes: Any) -> Any:
    """Wan 2.2 TI2V-5B, with fewer channels."""
    from diffusers import WanPipeline

    own = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16}
    scale = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [0.5, 0.8, 1.0, 1.2]}
    net = transformer(**{"in_channels": 4, "out_channels": 4, **sizes})
    return WanPipeline(transformer=net, **rest(5.0, z_dim=4, decoder_base_dim=8, **own, **scale), expand_timesteps=True)


FAMILIES: dict[str, Callable[..., Any]] = {
    "wan": wan,
    "wan22": wan22,
    "wan_i2v": wan_i2v,
    "wan22_i2v": wan22_i2v,
    "wan22_ti2v": wan22_ti2v,
}
"""Family -> its tiny pipeline."""
