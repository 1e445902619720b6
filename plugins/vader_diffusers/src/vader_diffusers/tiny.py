"""Writes tiny pipelines with random weights: the real classes and folder layout at toy sizes.

For tests, and for trying a spec before gigabytes are downloaded::

    python -m vader_diffusers.tiny FOLDER --family wan

Clips of 5 or 9 frames of 32 x 32 are a good size for it. Its pictures mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader import sdk
from vader_diffusers import tiny_others, tiny_wan

if TYPE_CHECKING:
    from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline


def write(folder: str | Path, seed: int = 0, family: str = "wan", **sizes: Any) -> Path:
    """Write a pipeline, a few megabytes.

    Args:
        folder: created if it is not there; files of the same names are overwritten.
        seed: of the random weights; the global random state is left as it was.
        family: one of :data:`FAMILIES`.
        sizes: changes of the denoiser's configuration.
    """
    build(seed, family, **sizes).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def build(seed: int = 0, family: str = "wan", **sizes: Any) -> Any:
    """A pipeline in float32 on the CPU, in evaluation mode. Args as of :func:`write`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[family](**sizes)


def cogvideox(**sizes: Any) -> CogVideoXPipeline:
    """CogVideoX 1.0, with the scheduler of the 2B model."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    small = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "num_layers": 2}
    small |= {"time_embed_dim": 8, "text_embed_dim": sdk.TEXT_WIDTH, "max_text_seq_length": 226}
    small |= {"sample_width": 8, "sample_height": 8, "sample_frames": 9}
    transformer = CogVideoXTransformer3DModel(**{**small, **sizes})
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    return CogVideoXPipeline(
        sdk.byte_tokenizer(), sdk.tiny_t5(), vae=vae.eval(), transformer=transformer.eval(), scheduler=scheduler
    )


def cogvideox_i2v(**sizes: Any) -> CogVideoXImageToVideoPipeline:
    """CogVideoX 1.0 image-to-video; with ``use_learned_positional_embeddings`` for one size alone."""
    from diffusers import CogVideoXImageToVideoPipeline

    sizes = {"in_channels": 8, "use_rotary_positional_embeddings": True, **sizes}
    return CogVideoXImageToVideoPipeline(**cogvideox(**sizes).components)


FAMILIES: dict[str, Callable[..., Any]] = {
    **tiny_wan.FAMILIES,
    **tiny_others.FAMILIES,
    "cogvideox": cogvideox,
    "cogvideox_i2v": cogvideox_i2v,
}
"""Family -> its tiny pipeline."""


def main() -> None:
    """Command line: ``python -m vader_diffusers.tiny FOLDER``."""
    parser = argparse.ArgumentParser(prog="python -m vader_diffusers.tiny", description="Write a tiny random pipeline.")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="wan", help="of the model")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    arguments = parser.parse_args()
    print(f"wrote {write(arguments.folder, arguments.seed, arguments.family)}")


if __name__ == "__main__":
    main()
