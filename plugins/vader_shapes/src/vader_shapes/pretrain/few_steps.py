"""Teaches a copy of the denoiser to make clips in four steps without guidance, as distilled models are used.

One step of the student goes where several guided Euler steps of the denoiser go (Meng et al., arXiv 2210.03142): its
velocity is (x_t - x_s) / (t - s) between two noise levels of the short schedule. Wherever the denoiser's path leads is
one place, not a mean of many, so that clips are crisp. The student is right on that schedule alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from vader_shapes.model import (
    LATENT_CHANNELS,
    MAX_SEQUENCE_LENGTH,
    PIPELINE,
    SHIFT,
    TEMPORAL_COMPRESSION,
    build_pipeline,
    build_scheduler,
    build_tokenizer,
    build_transformer,
)
from vader_shapes.pretrain.common import Budget, Log, Training, load_checkpoint, save_checkpoint
from vader_shapes.pretrain.denoiser import Generator
from vader_shapes.pretrain.export import export_weights
from vader_shapes.pretrain.sampling import sampled_figures
from vader_shapes.scenes import grammar, splits
from vader_shapes.world import FRAMES, SIZE

VARIANT = "few_steps"
STEPS = 4  # of the student, by the scheduler's own noise levels
TEACHER_STEPS = 12  # about as many guided ones over the whole path
GUIDANCE_SCALE = 2.0
PATHS, BATCH = 4096, 64
LATENT_SHAPE = (LATENT_CHANNELS, 1 + (FRAMES - 1) // TEMPORAL_COMPRESSION, SIZE // 4, SIZE // 4)


def noise_levels() -> list[float]:
    """The student's schedule, from 1 to 0."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(STEPS)
    levels: list[float] = scheduler.sigmas.tolist()
    return levels


def between(start: float, end: float) -> list[float]:
    """Noise levels of the teacher from one of the student's to the next, even before the shift."""
    first, last = (level / (SHIFT - (SHIFT - 1) * level) for level in (start, end))
    count = max(1, round((first - last) * TEACHER_STEPS))
    even = [first + (last - first) * i / count for i in range(count + 1)]
    return [SHIFT * level / (1 + (SHIFT - 1) * level) for level in even]


@dataclass(frozen=True)
class Paths:
    """Guided paths: latents `(n, 5, c f h w)` at the student's noise levels, tokens and mask `(n s)` of the prompts."""

    latents: Tensor
    tokens: Tensor
    mask: Tensor


@torch.no_grad()
def guided_paths(teacher: Generator, prompts: list[str], seed: int, guidance_scale: float = GUIDANCE_SCALE) -> Paths:
    """Follows the teacher from noise to clips of `prompts`."""
    words = build_tokenizer()([*prompts, ""], padding="max_length", max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for start in range(0, len(prompts), BATCH):
        rows = torch.arange(start, min(start + BATCH, len(prompts)))
        both = torch.cat([rows, torch.full_like(rows, len(prompts))])  # the last prompt is empty
        tokens, mask = words.input_ids[both], words.attention_mask[both]
        path = [torch.randn(len(rows), *LATENT_SHAPE, generator=generator)]
        for ends in pairwise(noise_levels()):
            latents = path[-1]
            for high, low in pairwise(between(*ends)):
                sigma = torch.full((len(both),), high)
                conditional, unconditional = teacher(torch.cat([latents, latents]), sigma, tokens, mask).chunk(2)
                velocity = unconditional + guidance_scale * (conditional - unconditional)
                latents = latents + (low - high) * velocity
            path.append(latents)
        found.append(torch.stack(path, dim=1))
    return Paths(torch.cat(found), words.input_ids[:-1], words.attention_mask[:-1])


def step_loss(student: Callable[..., Tensor], paths: Paths, count: int, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity from a noise level to the next, on `count` steps of paths.

    The last step, from a noise level of 0.009, changes nothing to be seen and is not learnt.
    """
    levels = torch.tensor(noise_levels())
    row = torch.randint(len(paths.latents), (count,), generator=generator)
    step = torch.randint(STEPS - 1, (count,), generator=generator)
    start, end = paths.latents[row, step], paths.latents[row, step + 1]
    velocity = (end - start) / (levels[step + 1] - levels[step]).view(-1, 1, 1, 1, 1)
    return F.mse_loss(student(start, levels[step], paths.tokens[row], paths.mask[row]), velocity)


def train_few_steps(
    out: Path,
    budget: Budget,
    seed: int = 0,
    log_every: int = 50,
    save_every: int = 100,
    check_every: int = 500,
    check_clips: int = 128,
    weights: Path = PIPELINE,
    path_count: int = PATHS,
) -> Path:
    """Trains until the budget is used up; continues from `out/few_steps.pt` if that exists.

    Needs what `train_denoiser` leaves: `out/denoiser.pt` and the pipeline folder `weights`. Prompts are encoded as
    before: the text encoder is frozen.

    Returns:
        The safetensors file with the averaged student in float16, a variant of the folder's transformer.
    """
    torch.manual_seed(seed)
    teacher, saved = Generator(), load_checkpoint(out / "denoiser.pt")
    if saved is None:
        raise FileNotFoundError(f"{out / 'denoiser.pt'} is not there; train the denoiser first.")
    teacher.load_state_dict(saved["average"])
    student = copy.deepcopy(teacher.eval().requires_grad_(False))
    training = Training(out / "few_steps.pt", student.transformer.requires_grad_(True), budget, seed, decay=0.995)
    file = weights / "transformer" / f"diffusion_pytorch_model.{VARIANT}.safetensors"
    if training.progress >= 1 and file.exists():
        return file
    paths = kept_paths(out, teacher, path_count, seed + 30)
    log = Log(out / "few_steps.jsonl")
    losses: list[float] = []
    while training.progress < 1:
        losses.append(training.update(step_loss(student, paths, budget.batch, training.generator)))
        if training.steps % log_every == 0:
            log.write(step=training.steps, loss=sum(losses) / len(losses), seconds=training.seconds)
            losses.clear()
        if training.due(save_every):
            training.save()
        if training.due(check_every) and check_clips:
            averaged = build_transformer()
            averaged.load_state_dict(training.average.values)
            pipeline = build_pipeline(AutoencoderKLWan.from_pretrained(out / "vae"), averaged, student.text_encoder)
            log.write(step=training.steps, **sampled_figures(pipeline, check_clips, 4321, STEPS, 1.0))
    return export_weights(training.average.values, file)


def kept_paths(out: Path, teacher: Generator, count: int, seed: int) -> Paths:
    """The guided paths, from `out/paths.pt` if they are there already."""
    if (saved := load_checkpoint(out / "paths.pt")) is None:
        prompts = [grammar.prompt(scene) for scene in splits.training_scenes(count, seed)]
        saved = vars(guided_paths(teacher, prompts, seed))
        save_checkpoint(out / "paths.pt", saved)
    return Paths(**saved)
