"""Validation: clips from fixed prompts and seeds, scored by training and held-out rewards, with an empty window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vader.backbones.images import opened
from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.frames import write_clip
from vader.diffusion.gradient import no_gradient
from vader.diffusion.seeding import derive, stream
from vader.methods.context import RolloutContext
from vader.prompts import drawn
from vader.protocols import Prompt, PromptSource
from vader.runs.events import ValidationClip
from vader.runs.folder import written_scale
from vader.shapes import Frames
from vader.spec import ValidationSpec
from vader.storage import write_with

Keep = Callable[[int, Frames], str | None]
"""Given a clip's index and its frames ``(f c h w)``, writes it and gives the file's name, or None."""


def chosen(spec: ValidationSpec, source: PromptSource) -> tuple[list[Prompt], list[int]]:
    """Prompts and noise seeds of a validation, the same at every call."""
    prompts = drawn(source, spec.clips, stream(spec.seed, "validation"))
    return prompts, [derive(spec.seed, "clip", index) for index in range(spec.clips)]


@torch.no_grad()
def score_clips(
    context: RolloutContext,
    encode: ConditioningCache,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    indices: Sequence[int],
    batch_size: int,
    keep: Keep,
) -> list[ValidationClip]:
    """Make and score the clips with these indices.

    Args:
        context: its rewards score.
        encode: of prompts.
        prompts: of all clips.
        seeds: of all clips' noise.
        indices: of the clips wanted here (a process takes its share).
        batch_size: clips made at once.
        keep: called with every clip.
    """
    made: list[ValidationClip] = []
    for start in range(0, len(indices), batch_size):
        rows = indices[start : start + batch_size]
        texts = [prompts[row] for row in rows]
        conditioning, steps = encode(texts), len(context.sampler.timesteps)
        latents = context.sample(conditioning, [seeds[row] for row in rows], no_gradient(steps))
        frames = context.decode(latents, None)
        scores = context.judge(latents, context.timestep_after(-1), frames, texts, conditioning)
        for place, row in enumerate(rows):
            values = {key: float(score[place]) for key, score in scores.items()}
            made.append(ValidationClip(row, prompts[row].text, seeds[row], values, keep(row, frames[place])))
    return made


def write_image(folder: Path, index: int, prompt: Prompt, frames: tuple[int, int]) -> str | None:
    """Write a prompt's image as its clip's model sees it, stretched to the clip's size; the file's name, if it has one.

    Args:
        folder: of the clips.
        index: of the clip.
        prompt: of the clip.
        frames: their height and width.
    """
    if prompt.image is None:
        return None
    name, scale = f"image-{index:03d}.png", written_scale(*frames)
    picture = opened(prompt.image).resize((frames[1], frames[0])).resize((frames[1] * scale, frames[0] * scale), 0)
    write_with(folder / name, lambda file: picture.save(file, "PNG"))
    return name


def clip_writer(folder: Path, count: int, fps: float) -> Keep:
    """Writes the first ``count`` clips as mp4 into ``folder``; tiny ones are enlarged for players."""

    def keep(index: int, frames: Frames) -> str | None:
        if index >= count:
            return None
        name = f"clip-{index:03d}.mp4"
        write_clip(folder / name, frames, fps, scale=written_scale(*frames.shape[-2:]))
        return name

    return keep
