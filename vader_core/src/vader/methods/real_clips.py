"""The denoising loss on real clips, which holds a model near data while a reward pulls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vader.diffusion.clip_folder import read_clip_folder, read_frames
from vader.diffusion.noising import add_noise, draw_timestep, target
from vader.diffusion.precision import upcast
from vader.diffusion.seeding import derive, stream
from vader.errors import Problem, SpecError
from vader.protocols import Conditioning, EncodesClips

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.shapes import Latents


@dataclass(frozen=True)
class RealClips:
    """Clips as the denoiser sees them, on the CPU.

    Args:
        latents: ``(n ...)``, clean.
        conditioning: of their prompts, a row each.
    """

    latents: Latents
    conditioning: list[Conditioning]

    @classmethod
    @torch.no_grad()
    def encoded(cls, folder: str, context: RolloutContext) -> RealClips:
        """The clips of a folder.

        Raises:
            SpecError: they cannot be read, or the backbone makes no latents of clips.
        """
        backbone = context.backbone
        if not isinstance(backbone, EncodesClips):
            message = f"the backbone {type(backbone).__name__} makes no latents of clips. Remove clips."
            raise SpecError([Problem("method.options.clips", message)])
        try:
            rows = read_clip_folder(Path(folder)).rows
            clips = [backbone.encode_clips(read_frames(row.file, context.video)[None]).cpu() for row in rows]
        except ValueError as error:
            raise SpecError([Problem("method.options.clips", str(error))]) from error
        return cls(torch.cat(clips), [backbone.encode([row.prompt]).to("cpu") for row in rows])

    def loss(self, context: RolloutContext, seeds: Sequence[int]) -> Tensor:
        """Mean squared error of the conditional prediction, for a clip, a timestep and a noise drawn by each seed.

        Args:
            context: with the denoiser.
            seeds: of as many clips as are wanted.
        """
        rngs = [stream(seed, "real clip") for seed in seeds]
        rows = [rng.randrange(len(self.latents)) for rng in rngs]
        schedule, device = context.backbone.schedule, context.device
        timestep = torch.tensor([draw_timestep(schedule, rng) for rng in rngs], device=device)
        noise = context.noise([derive(seed, "real clip") for seed in seeds]).draw()
        clean = self.latents[rows].to(noise)
        branches = [self.conditioning[row].positive for row in rows]
        branch = {name: torch.cat([one[name] for one in branches]).to(device) for name in branches[0]}
        with context.timer("loss"):
            prediction = context.predict(add_noise(schedule, clean, noise, timestep), timestep, branch)
            return (upcast(prediction) - target(schedule, clean, noise, timestep)).square().mean()
