"""Samples the pipeline through diffusers' own `__call__` and reads the clips with the exact evaluator."""

from __future__ import annotations

import torch
from diffusers import WanPipeline
from torch import Tensor

from vader_shapes.evaluator import accuracy
from vader_shapes.model import MAX_SEQUENCE_LENGTH
from vader_shapes.pretrain.common import mean_accuracy
from vader_shapes.world import FRAMES, SIZE, held_out_combinations, prompt


def held_out_prompts(count: int) -> list[str]:
    """`count` held-out prompts, cycling through the 36 combinations."""
    prompts = [prompt(a) for a in held_out_combinations()]
    return [prompts[i % len(prompts)] for i in range(count)]


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
                max_sequence_length=MAX_SEQUENCE_LENGTH,
                generator=generator,
                output_type="pt",
            ).frames
        )
    return torch.cat(parts).float()


def held_out_accuracy(
    pipeline: WanPipeline, count: int, seed: int = 1234, steps: int = 10, guidance_scale: float = 3.0
) -> dict[str, float]:
    """Shares in [0, 1] of `count` held-out clips with each attribute right, and all four ("all")."""
    prompts = held_out_prompts(count)
    return mean_accuracy(accuracy(sample(pipeline, prompts, seed, steps, guidance_scale), prompts))
