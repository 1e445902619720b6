"""Samples the pipeline through diffusers' own `__call__` and reads the clips with the exact evaluator."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from vader_shapes.pretrain.data import figures, prompts_of
from vader_shapes.scenes import splits
from vader_shapes.world import FRAMES, SIZE


def sample(
    pipeline: WanPipeline, prompts: list[str], seed: int, steps: int = 10, guidance_scale: float = 3.0, batch: int = 64
) -> Tensor:
    """Clips `(b f c h w)` in [0, 1] on CPU; the same seed and batch give the same noise."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(prompts), batch):
        parts.append(
            pipeline(
                prompt=prompts[start : start + batch],
                height=SIZE,
                width=SIZE,
                num_frames=FRAMES,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                max_sequence_length=pipeline.tokenizer.model_max_length,
                generator=generator,
                output_type="pt",
            ).frames
        )
    return torch.cat(parts).float()


def sampled_figures(
    pipeline: WanPipeline, count: int, seed: int = 1234, steps: int = 10, guidance_scale: float = 3.0
) -> dict[str, dict[str, Any]]:
    """`data.figures` of `count` clips of held-out and of seen prompts, of which each kind has as many."""
    found = {}
    for name, split in (("held_out", splits.held_out_split), ("seen", splits.train_split)):
        prompts = prompts_of(split)
        chosen = [prompts[i % len(prompts)] for i in range(count)]
        found[name] = figures(sample(pipeline, chosen, seed, steps, guidance_scale), chosen)
    return found
