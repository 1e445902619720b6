"""A method at work on the kit's own backbone, rewards and clips, for the checks of :mod:`vader.testing.method`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vader.diffusion.gradient import window
from vader.diffusion.samplers.ddim import DDIM
from vader.diffusion.samplers.flow_euler import FlowEuler
from vader.diffusion.seeding import derive, stream
from vader.methods.context import PhaseTimer, RolloutContext
from vader.methods.contrast import Contrast
from vader.methods.objective import Objective, Term
from vader.protocols import Batch, Conditioning, Loss, Method, Prompt, Runtime, SamplerContext, ValidatesSpec
from vader.shapes import Frames, Latents, Scores
from vader.spec import AdapterSpec, RunSpec
from vader.testing.checks import Failed
from vader.testing.gaussian_backbone import GaussianBackbone
from vader.testing.subject import Subject
from vader.weights import lora

STEPS, MICRO_STEPS = 6, 2
_CPU = torch.device("cpu")
_PHRASES = ("sharp.", "dull.")
_SIZES = (2, 4, 12, 24, 48)
"""Clips of a batch that are tried, until one suits the clips of a prompt."""


def _level(prompt: Prompt) -> float:
    """What a reward of the kit wants of a prompt's clips."""
    return sum(map(ord, prompt.text)) % 97 / 97


class Nearer:
    """Higher when a clip's mean is nearer to what its prompt's letters say."""

    needs_prompt: ClassVar[bool] = True

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores:
        """See :class:`vader.protocols.Reward`."""
        return -(frames.mean((1, 2, 3, 4)) - frames.new_tensor([_level(prompt) for prompt in prompts])).square()


class Number(Nearer):
    """The same without a gradient."""

    differentiable: ClassVar[bool] = False

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores:
        """See :class:`vader.protocols.Reward`."""
        return super().score(frames.detach(), prompts)


class NearerLatents:
    """Higher when the mean of latents is nearer to that of their prompt's data."""

    input: ClassVar[str] = "latents"
    needs_prompt: ClassVar[bool] = True

    def score(self, latents: Latents, timestep: Tensor, conditioning: Conditioning) -> Scores:
        """See :class:`vader.protocols.LatentReward`."""
        return -(latents.mean((1, 2, 3, 4)) - conditioning.positive["embeds"].flatten() - 1).square()


class Prepared(nn.Module):
    """Stands for the denoiser as a run has prepared it: another object, around the backbone's own.

    ``through`` counts calls that came this way, ``calls`` all that reached the backbone's, with and without gradient.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = {True: 0, False: 0}
        self.through = 0
        inner.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls[torch.is_grad_enabled()] += 1

    def forward(self, *arguments: Any) -> Any:
        """What the inner denoiser gives."""
        self.through += 1
        return self.inner(*arguments)


@dataclass(frozen=True)
class Setting:
    """A run that a method may be willing to work in."""

    prediction: str
    eta: float
    contrast: bool
    size: int

    @property
    def sampler(self) -> type[FlowEuler] | type[DDIM]:
        """Its class."""
        return FlowEuler if self.prediction == "flow" else DDIM

    def spec(self, name: str, options: Mapping[str, Any]) -> RunSpec:
        """As a spec."""
        phrases = {"positive": _PHRASES[0], "negative": _PHRASES[1]}
        reward = {"name": "kit", "contrast": phrases} if self.contrast else {"name": "kit"}
        said: dict[str, Any] = {
            "backbone": {"name": "gaussian", "adapter": {"rank": 2}},
            "sampler": {"name": "flow_euler" if self.prediction == "flow" else "ddim", "steps": STEPS, "eta": self.eta},
            "prompts": "kit",
            "rewards": [reward],
            "method": {"name": name, "options": dict(options)},
            "train": {"batch_size": self.size},
        }
        return RunSpec.model_validate(said)


SETTINGS = [
    Setting(prediction, eta, contrast, size)
    for contrast in (False, True)
    for prediction in ("flow", "epsilon")
    for eta in (0.0, 1.0)
    for size in _SIZES
]


def suited(subject: Subject) -> tuple[Setting, list[Any]]:
    """The first setting that a method has nothing against, and all that it said until then.

    Raises:
        Failed: it has something against every one.
    """
    able, said = subject.ability(ValidatesSpec), list[Any]()
    if able is None:
        return SETTINGS[0], said
    for setting in SETTINGS:
        spec = setting.spec(subject.title, subject.chosen_options)
        found = list(able.validate(subject.options, spec, setting.sampler))
        if not found and (setting.prediction == "flow" or not subject.capability("needs_flow")):
            return setting, said
        said += found
    raise Failed(
        f"it has something against every setting of the kit (flow_euler and ddim, eta 0 and 1, with a contrast and "
        f"without, up to {max(_SIZES)} clips a batch); at last: {said[-1] if said else 'needs_flow'}. Give the kit "
        "options that fit."
    )


@dataclass
class Trial:
    """A method in a context, and the steps that it is taken through.

    Args:
        method: under test.
        context: the kit's.
        denoiser: counts.
        parameters: the adapter's.
        size: clips of a batch.
    """

    method: Method
    context: RolloutContext
    denoiser: Prepared
    parameters: list[nn.Parameter]
    size: int
    gradients: list[Tensor] = field(default_factory=list)

    def batches(self, step: int) -> list[Batch]:
        """Those of an optimizer step, as a run makes them."""
        group, start = self.method.group_size, step - step % self.method.inner_epochs
        found = []
        for micro in range(MICRO_STEPS):
            rows = range(micro * self.size, (micro + 1) * self.size)
            prompts = tuple(Prompt(f"prompt {start + row // group}") for row in rows)
            seeds = tuple(derive(0, "clip", start, row) for row in rows)
            conditioning = self.context.backbone.encode(prompts)
            found.append(Batch(prompts, conditioning, seeds, stream(0, "draw", step, micro)))
        return found

    def losses(self, step: int) -> Iterator[Loss]:
        """Those of an optimizer step, each back-propagated before the next is asked for; see ``gradients``."""
        self.gradients = []
        for loss in self.method.losses(self.batches(step), step % self.method.inner_epochs):
            yield loss
            found = torch.autograd.grad(loss.value, self.parameters, allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
            self.gradients.append(torch.cat([one.flatten() for one in filled]))

    @torch.no_grad()
    def move(self) -> None:
        """Move the adapter, as an optimizer step would."""
        for parameter in self.parameters:
            parameter.mul_(0.9).add_(0.02)


def trial(subject: Subject, *, reward: Any = None) -> Trial:
    """A new method of a subject, on a new backbone.

    Args:
        subject: a method.
        reward: in place of the kit's own.
    """
    setting, _ = suited(subject)
    options = GaussianBackbone.Options.model_validate({"prediction": setting.prediction})
    backbone = GaussianBackbone(options, Runtime(_CPU, torch.float32))
    parameters = lora.inject(backbone.denoiser, AdapterSpec(rank=2), GaussianBackbone.lora_target_modules, 0)
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(index)
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    denoiser = Prepared(backbone.denoiser)
    video = backbone.resolve_video(options, {})
    chosen = reward or (NearerLatents() if subject.capability("needs_latents") else Nearer())

    def sampler(eta: float) -> FlowEuler | DDIM:
        kind: Any = setting.sampler
        built: FlowEuler | DDIM = kind(kind.Options(), SamplerContext(backbone.schedule, STEPS, eta, video, _CPU))
        return built

    context = RolloutContext(
        backbone=backbone,
        denoiser=denoiser,
        sampler=sampler(setting.eta),
        video=video,
        rewards={"kit": chosen},
        objective=Objective([Term("kit")]),
        draw_window=window("rand", STEPS),
        choose_frames=lambda rng: [rng.randrange(video.frames)],
        guidance_scale=1.5,
        branches="both",
        recompute="auto",
        renoise=None,
        device=_CPU,
        timer=PhaseTimer(_CPU),
        contrasts={"kit": Contrast(*_PHRASES)} if setting.contrast else {},
        deterministic=sampler(0.0) if setting.eta else None,
    )
    method: Method = subject.build(context=context)
    return Trial(method, context, denoiser, parameters, setting.size)
