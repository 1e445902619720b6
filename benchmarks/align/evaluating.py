"""The one evaluation that every adapter gets: the same prompts and seeds, the deterministic sampler, no guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vader.diffusion.seeding import derive, stream
from vader.protocols import Prompt
from vader.runs.image_statistics import STATISTICS
from vader.runs.session import Session, open_session
from vader.runs.validation import score_clips
from vader.weights import lora

BATCH = 32
"""Clips made at once."""


@dataclass(frozen=True)
class Grid:
    """The clips of an evaluation: every prompt with the same number of seeds.

    Args:
        prompts: how many.
        seeds: clips of each prompt.
        seed: of the choice of prompts and of the clips' noise.
    """

    prompts: int
    seeds: int
    seed: int = 4321

    @property
    def clips(self) -> int:
        """How many clips are made."""
        return self.prompts * self.seeds


class Evaluator:
    """A model opened once, into which adapters are put one after the other.

    Args:
        spec: of the benchmark, without a variant's changes; ``validation.prompts`` are the evaluation's.
        adapter: any adapter of the right shape.
        grid: the clips.
    """

    def __init__(self, spec: Mapping[str, Any], adapter: Path, grid: Grid) -> None:
        self._session: Session = open_session(dict(spec), [], adapter, scored=True)
        self._grid = grid
        drawn = self._session.plan.validation_prompts.draw(grid.prompts, stream(grid.seed, "evaluation"))
        self._prompts: list[Prompt] = [prompt for prompt in drawn for _ in range(grid.seeds)]
        self._seeds = [derive(grid.seed, "clip", index) for index in range(grid.clips)]

    def base(self) -> dict[str, Any]:
        """The figures of the model without an adapter."""
        self._session.set_scale(0.0)
        try:
            return self._judge(divergence=False)
        finally:
            self._session.set_scale(1.0)

    def adapter(self, folder: Path, *, divergence: bool) -> dict[str, Any]:
        """The figures of an adapter.

        Args:
            folder: of the adapter.
            divergence: measure the divergence from the base model too, on one clip of each prompt.
        """
        lora.load_into(self._session.context.backbone.denoiser, folder)
        return self._judge(divergence=divergence)

    def _judge(self, *, divergence: bool) -> dict[str, Any]:
        frames: dict[int, Tensor] = {}

        def keep(index: int, clip: Tensor) -> None:
            frames[index] = clip

        session, everyone = self._session, range(self._grid.clips)
        made = score_clips(
            session.context, session.encode, self._prompts, self._seeds, BATCH, keep, shown=self._grid.clips
        )
        clips = list(made)
        scores = {key: [round(clip.scores[key], 5) for clip in clips] for key in clips[0].scores}
        found: dict[str, Any] = {"scores": scores, "diversity": self._diversity([frames[i] for i in everyone])}
        found["kinds"] = [clip.kind for clip in clips]
        found["statistics"] = {name: [clip.statistics.get(name) for clip in clips] for name in STATISTICS}
        if divergence:
            found["divergence"] = self._divergence()
        return found

    def _diversity(self, frames: Sequence[Tensor]) -> list[float]:
        """For every prompt, the variance between its clips of a pixel, mean over frames, channels and pixels."""
        clips = torch.stack(list(frames))
        groups = clips.reshape(self._grid.prompts, self._grid.seeds, *clips.shape[1:])
        return [round(float(group.var(0).mean()), 7) for group in groups]

    @torch.no_grad()
    def _divergence(self) -> float:
        """Mean of the context's divergence over clips and steps, along the aligned model's way."""
        from vader.diffusion.gradient import no_gradient

        context = self._session.context
        rows = list(range(0, self._grid.clips, self._grid.seeds))
        conditioning = self._session.encode([self._prompts[row] for row in rows])
        found: list[Tensor] = []

        def measure(i: int, latents: Tensor, output: Any) -> None:
            prediction = context.predict_at(conditioning, latents, i, recompute=False)
            found.append(context.divergence(prediction, conditioning, latents, i))

        context.sample(
            conditioning, [self._seeds[row] for row in rows], no_gradient(len(context.sampler.timesteps)), measure
        )
        return float(torch.stack(found).mean())
