"""A scene: the live components of a run, put together so that a method can make clips and judge them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from vader.gradient import Draw, Window
from vader.objective import Objective
from vader.protocols import Backbone, Conditioning, Prompt, Reward, Sampler, Video
from vader.rollout import ClipNoise, OnStep, rollout
from vader.shapes import Frames, Latents


class Clock:
    """Seconds spent in each phase since the last :meth:`read`. On an accelerator each phase waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self._spent[phase] = self._spent.get(phase, 0.0) + self._now() - start

    def read(self) -> dict[str, float]:
        """Seconds by phase; starts anew."""
        spent, self._spent = self._spent, {}
        return spent

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class Scene:
    """What a method works with.

    Args:
        backbone: the generator.
        denoiser: its denoiser as accelerate has prepared it.
        sampler: built for the run's number of steps.
        video: the clips to be made.
        rewards: by key.
        objective: how scores combine.
        draw_window: gives the gradient window of a micro-step.
        choose_frames: gives the frames of a micro-step.
        guidance_scale: 1 is off.
        branches: guidance branches that carry gradient.
        recompute: recompute denoiser calls in backward.
        device: where latents are born.
    """

    backbone: Backbone
    denoiser: nn.Module
    sampler: Sampler
    video: Video
    rewards: Mapping[str, Reward]
    objective: Objective
    draw_window: Draw
    choose_frames: Callable[[random.Random], list[int]]
    guidance_scale: float
    branches: Literal["both", "conditional"]
    recompute: bool
    device: torch.device
    clock: Clock = field(repr=False)

    def predict(self, latents: Latents, timestep: Tensor, embeds: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        """One call of the prepared denoiser."""
        return self.backbone.predict(self.denoiser, latents, timestep, embeds, extras)

    def roll(
        self, conditioning: Conditioning, seeds: Sequence[int], window: Window, on_step: OnStep | None = None
    ) -> Latents:
        """Latents of ``b`` clips, ``(b c f h w)``, with gradient in the window."""
        noise = ClipNoise(seeds, self.backbone.latent_shape(self.video), self.device, torch.float32)
        with self.clock("rollout"):
            return rollout(
                self.predict,
                self.sampler,
                conditioning,
                noise,
                window,
                guidance_scale=self.guidance_scale,
                branches=self.branches,
                recompute=self.recompute,
                on_step=on_step,
            )

    def decode(self, latents: Latents, frames: Sequence[int] | None) -> Frames:
        """Pixels of the wanted frames, ``(b f 3 h w)`` in [0, 1]."""
        with self.clock("decode"):
            return self.backbone.decode(latents, frames)

    def judge(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Raw scores by reward, each ``(b,)``.

        Raises:
            ValueError: a reward gave scores of another shape.
        """
        scores: dict[str, Tensor] = {}
        with self.clock("reward"):
            for key, reward in self.rewards.items():
                score = reward.score(frames, prompts)
                if tuple(score.shape) != (len(prompts),):
                    raise ValueError(
                        f"reward {key!r} gave scores of shape {tuple(score.shape)}; "
                        f"expected ({len(prompts)},), one a clip."
                    )
                scores[key] = score
        return scores
