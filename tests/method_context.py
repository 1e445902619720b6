"""A context in float64 for tests of methods: the fake backbone with an adapter that counts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tests.fakes import Brightness, FakeBackbone
from torch import Tensor, nn

from vader.diffusion.gradient import Draw, window
from vader.diffusion.rollout import ClipNoise
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.methods.context import PhaseTimer, RolloutContext
from vader.methods.objective import Objective, Term
from vader.protocols import Batch, Prediction, Prompt, Runtime, SamplerContext, Video
from vader.spec import AdapterSpec
from vader.weights import lora

CPU = torch.device("cpu")
VIDEO = Video(2, 4, 4)
STEPS = 4
PROMPTS = ("a red circle", "a red circle", "a blue square", "a blue square")
SEEDS = (21, 22, 23, 24)


class Context64(RolloutContext):
    """A context whose latents are float64."""

    def noise(self, seeds: Sequence[int]) -> ClipNoise:
        return ClipNoise(seeds, self.backbone.latent_shape(self.video), self.device, torch.float64)


class Constant:
    """A reward that likes everything equally."""

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b,)`` of 1/2."""
        return frames.new_full((len(frames),), 0.5)


def backbone(prediction: Prediction = "epsilon", *, adapted: float | None = 0.3) -> FakeBackbone:
    """The fake in float64, with an adapter of rank 2 and random numbers of size ``adapted``; None for no adapter."""
    made = FakeBackbone(FakeBackbone.Options(prediction=prediction), Runtime(CPU, torch.float64))
    if adapted is not None:
        lora.inject(made.denoiser, AdapterSpec(rank=2), FakeBackbone.lora_target_modules, 0)
        made.denoiser.double()
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in trained(made):
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(adapted * drawn)
    return made


def trained(made: FakeBackbone) -> list[nn.Parameter]:
    return [parameter for parameter in made.denoiser.parameters() if parameter.requires_grad]


def context(
    made: FakeBackbone, *, eta: float = 1.0, reward: Any = None, draw: Draw | None = None, **more: Any
) -> RolloutContext:
    """A context of one reward."""
    flow = made.schedule.prediction == "flow"

    def built(eta: float) -> FlowEuler | DDIM:
        context = SamplerContext(made.schedule, STEPS, eta, VIDEO, CPU)
        return FlowEuler(FlowEuler.Options(), context) if flow else DDIM(DDIM.Options(), context)

    fields: dict[str, Any] = {
        "backbone": made,
        "denoiser": made.denoiser,
        "sampler": built(eta),
        "deterministic": built(0.0) if eta else None,
        "video": VIDEO,
        "rewards": {"reward": reward or Brightness(Brightness.Options(level=1.0))},
        "objective": Objective([Term("reward", 2.0)]),
        "draw_window": draw or window("last", STEPS),
        "choose_frames": lambda rng: [0, 1],
        "guidance_scale": 1.5,
        "branches": "both",
        "recompute": False,
        "renoise": None,
        "device": CPU,
        "timer": PhaseTimer(CPU),
    }
    return Context64(**{**fields, **more})


def batch(made: FakeBackbone, prompts: Sequence[str] = PROMPTS, seeds: Sequence[int] = SEEDS) -> Batch:
    """A batch of these prompts."""
    return Batch(tuple(map(Prompt, prompts)), made.encode([*map(Prompt, prompts)]), tuple(seeds), random.Random(0))


def gradient(loss: Tensor, made: FakeBackbone) -> Tensor:
    """Of a loss with respect to the adapter, in one row; the graph stays."""
    found = torch.autograd.grad(loss, trained(made), allow_unused=True, retain_graph=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(trained(made), found, strict=True)]
    return torch.cat([one.flatten() for one in filled])


def nudge(made: FakeBackbone, size: float = 0.02) -> None:
    """Another adapter, near the first."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in trained(made):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
