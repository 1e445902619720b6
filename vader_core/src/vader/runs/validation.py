"""Validation: clips from fixed prompts and seeds, scored by training and held-out rewards, with an empty window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vader.backbones.images import opened
from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.frames import sketch, write_clip
from vader.diffusion.gradient import no_gradient
from vader.diffusion.seeding import derive, stream
from vader.methods.context import RolloutContext
from vader.prompts import drawn
from vader.protocols import Prompt, PromptSource
from vader.runs.events import ValidationClip
from vader.runs.folder import written_scale
from vader.runs.image_statistics import Diversity, image_statistics
from vader.runs.shares import Alone, Crew, in_shares
from vader.shapes import Frames
from vader.spec import ValidationSpec
from vader.storage import write_with

Keep = Callable[[int, Frames], str | None]
"""Given a clip's index and its frames ``(f c h w)``, writes it and gives the file's name, or None."""


def chosen(spec: ValidationSpec, source: PromptSource) -> tuple[list[Prompt], list[int]]:
    """Prompts and noise seeds of a validation, the same at every call."""
    prompts = drawn(source, spec.clips, stream(spec.seed, "validation"))
    return prompts, [derive(spec.seed, "clip", index) for index in range(spec.clips)]


def score_clips(
    context: RolloutContext,
    encode: ConditioningCache,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    batch_size: int,
    keep: Keep = lambda index, frames: None,
    shown: int = 0,
    crew: Crew | None = None,
) -> Iterator[ValidationClip]:
    """Make and score clips, all processes together.

    Args:
        context: its rewards score.
        encode: of prompts.
        prompts: of the clips.
        seeds: of their noise.
        batch_size: clips made at once.
        keep: called, in the main process, with the clips that are shown.
        shown: how many of the first clips are.
        crew: the processes; None for this one alone.

    Returns:
        In the main process the clips, in order; in the others nothing.
    """

    @torch.no_grad()
    def make(rows: range) -> list[tuple[ValidationClip, Frames | None]]:
        texts = [prompts[row] for row in rows]
        conditioning, steps = encode(texts), len(context.sampler.timesteps)
        latents = context.sample(conditioning, [seeds[row] for row in rows], no_gradient(steps))
        frames = context.decode(latents, None)
        scores = context.judge(latents, context.timestep_after(-1), frames, texts, conditioning)
        read = {key: score.tolist() for key, score in scores.items()}
        statistics, made = image_statistics(frames), []
        for place, row in enumerate(rows):
            values, text = {key: one[place] for key, one in read.items()}, prompts[row]
            clip = ValidationClip(row, text.text, seeds[row], values, sketch=sketch(frames[place]))
            clip = replace(clip, statistics=statistics[place], kind=_kind(text))
            made.append((clip, frames[place].cpu().clone() if row < shown else None))
        return made

    diversity = Diversity()
    for made, frames in in_shares(crew or Alone(), len(prompts), batch_size, make):
        clip = replace(made, statistics={**made.statistics, **diversity.of(made)})
        yield clip if frames is None else replace(clip, file=keep(clip.index, frames))


def _kind(prompt: Prompt) -> str | None:
    """What kind of prompt it is, if its metadata say so in a word."""
    kind = prompt.metadata.get("kind")
    return kind if isinstance(kind, str) else None


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


def clip_writer(folder: Path, fps: float) -> Keep:
    """Writes clips as mp4 into ``folder``; tiny ones are enlarged for players."""

    def keep(index: int, frames: Frames) -> str | None:
        name = f"clip-{index:03d}.mp4"
        write_clip(folder / name, frames, fps, scale=written_scale(*frames.shape[-2:]))
        return name

    return keep
