"""The verdict on planted outcomes: clips of the embedded model, changed as a hacked run changes them, and scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vader.diffusion.frames import sketch
from vader.diffusion.gradient import no_gradient
from vader.report.reading import read_run
from vader.report.summary import judged
from vader.runs.events import Validation, ValidationClip
from vader.runs.folder import RunFolder
from vader.runs.session import Session, open_session
from vader.runs.validation import chosen

CLIPS = 16


@dataclass(frozen=True)
class Made:
    """The embedded model's clips on held-out prompts."""

    session: Session
    frames: Tensor

    def validation(self, step: int, frames: Tensor) -> Validation:
        """Clips of these frames, scored by all rewards of the spec."""
        prompts, seeds = chosen(self.session.plan.spec.validation, self.session.plan.validation_prompts)
        context, conditioning = self.session.context, self.session.encode(prompts)
        with torch.no_grad():
            read = context.judge(frames, context.timestep_after(-1), frames, prompts, conditioning)
        scores = {key: score.tolist() for key, score in read.items()}
        clips = [
            ValidationClip(i, prompts[i].text, seeds[i], {key: values[i] for key, values in scores.items()},
                           sketch=sketch(frames[i]))
            for i in range(CLIPS)
        ]  # fmt: skip
        return Validation(step, tuple(clips))


def made_with(trained: str, held_out: Sequence[str]) -> Made:
    spec: dict[str, Any] = {
        "backbone": "shapes",
        "sampler": {"steps": 3, "guidance_scale": 3.0},
        "prompts": "shapes",
        "rewards": [trained],
        "train": {"device": "cpu"},
        "validation": {
            "prompts": {"name": "shapes", "options": {"split": "held_out", "world": "one"}},
            "rewards": list(held_out),
            "clips": CLIPS,
        },
    }
    session = open_session(spec, [], None, scored=True)
    prompts, seeds = chosen(session.plan.spec.validation, session.plan.validation_prompts)
    context = session.context
    with torch.no_grad():
        latents = context.sample(session.encode(prompts), seeds, no_gradient(len(context.sampler.timesteps)))
        return Made(session, context.decode(latents, None))


@pytest.fixture(scope="module")
def colourful() -> Made:
    """A reward that is easily cheated, and two scores that are not."""
    return made_with("shapes_colourfulness", ["shapes_alignment", "shapes_accuracy"])


@pytest.fixture(scope="module")
def aligned() -> Made:
    return made_with("shapes_alignment", ["shapes_accuracy"])


def verdict(made: Made, folder: Path, before: Tensor, after: Tensor) -> str:
    run = RunFolder(folder)
    run.make()
    run.write_spec(made.session.plan.spec)
    run.metrics.write_text(json.dumps({"step": 100, "reward": 1.0}) + "\n")
    for step, frames in ((0, before), (100, after)):
        run.make_validation(step)
        run.write_validation(made.validation(step, frames), "planted")
    return judged(read_run(folder))[1].verdict.text


def painted(frames: Tensor) -> Tensor:
    """Each clip one vivid colour."""
    colours = torch.eye(3)[torch.arange(len(frames)) % 3]
    return (0.2 * frames + 0.8 * colours[:, None, :, None, None]).clamp(0, 1)


def all_one(frames: Tensor) -> Tensor:
    """The most colourful clip in place of all, and more colourful."""
    best = (frames.amax(2) - frames.amin(2)).mean((1, 2, 3)).argmax()
    grey = frames[best].mean(1, keepdim=True)
    return (grey + 1.5 * (frames[best] - grey)).clamp(0, 1).expand_as(frames) + 1e-3 * frames


def noise(frames: Tensor) -> Tensor:
    """Coloured noise."""
    return torch.rand(frames.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("plant", [painted, all_one, noise])
def test_clips_that_please_the_reward_alone_are_called_hacked(
    colourful: Made, tmp_path: Path, plant: Callable[[Tensor], Tensor]
) -> None:
    assert verdict(colourful, tmp_path, colourful.frames, plant(colourful.frames)) == "Hacked"


def test_clips_that_got_worse_are_called_that(aligned: Made, tmp_path: Path) -> None:
    found = verdict(aligned, tmp_path, aligned.frames, blurred(aligned.frames))
    assert found == "Worse in shapes_alignment and shapes_accuracy"


def test_clips_that_got_better_are_called_that(aligned: Made, tmp_path: Path) -> None:
    assert verdict(aligned, tmp_path, blurred(aligned.frames), aligned.frames) == "Better"


def blurred(frames: Tensor) -> Tensor:
    """Without form: each pixel the mean of its neighbourhood."""
    flat = frames.flatten(0, 1)
    return F.avg_pool2d(F.pad(flat, (6, 6, 6, 6), mode="replicate"), 13, 1).reshape(frames.shape)
