"""Tiny hand-written stand-ins, small enough to be checked by hand.

Importable as ``from tests.fakes import ...`` and loadable as unpackaged code, ``tests/fakes.py:FakeBackbone``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import vader
from vader.diffusion.frames import from_signed, write_clip
from vader.errors import WeightsError
from vader.protocols import Branch, Conditioning, NoiseSchedule, Prediction, Prompt, Runtime, Video

CHANNELS, WIDTH, TOKENS, PATCH = 4, 16, 2, 2
"""Latent channels, width of the denoiser and of its embeddings, tokens of a prompt, pixels per latent cell."""


def scaled_linear(steps: int = 1000) -> Tensor:
    """``(steps,)`` float64, alphas_cumprod of Stable Diffusion's schedule (betas linear in their root)."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2, dim=0)


def fake_schedule(prediction: Prediction = "epsilon", *, shift: float = 1.0) -> NoiseSchedule:
    """A noise schedule of 1000 steps; ``shift`` is of a flow."""
    alphas = None if prediction == "flow" else scaled_linear()
    return NoiseSchedule(prediction, alphas, shift=shift)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The optimal denoiser for data ``N(mean, std^2)``, independent per element, in closed form.

    With ``latents = alpha clean + sigma noise`` the posterior mean of the clean latents is
    ``mean + std^2 alpha (latents - alpha mean) / (alpha^2 std^2 + sigma^2)``; the rest follows from it.
    """

    prediction: Prediction
    mean: float
    std: float

    def clean(self, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        """The posterior mean of the clean latents."""
        gain = self.std**2 * alpha / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (latents - alpha * self.mean)

    def __call__(self, latents: Tensor, alpha: float, sigma: float) -> Tensor:
        """The prediction, of whichever kind."""
        clean = self.clean(latents, alpha, sigma)
        noise = (latents - alpha * clean) / sigma
        return {
            "epsilon": noise,
            "v": alpha * noise - sigma * clean,
            "sample": clean,
            "flow": noise - clean,
        }[self.prediction]

    def flow_map(self, start: Tensor, level: tuple[float, float], end: tuple[float, float]) -> Tensor:
        """Where the probability-flow ODE takes latents from one ``(alpha, sigma)`` to another: quantiles are kept."""

        def spread(alpha: float, sigma: float) -> float:
            return (alpha**2 * self.std**2 + sigma**2) ** 0.5

        return end[0] * self.mean + spread(*end) / spread(*level) * (start - level[0] * self.mean)


class TinyDenoiser(nn.Module):
    """A float64 denoiser in which everything is non-linear in everything: latents, timestep, prompt and adapter.

    Per latent cell ``tanh((W + B A) x + prompt . P + timestep)``; ``A`` and ``B`` are the adapter, both non-zero, and
    the only parameters that are trained.
    """

    def __init__(self, channels: int = 3, rank: int = 2, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            values = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nn.Parameter(values * shape[-1] ** -0.5)

        self.base = drawn(channels, channels).requires_grad_(False)
        self.prompt = drawn(channels, channels).requires_grad_(False)
        self.lora_a = drawn(rank, channels)
        self.lora_b = drawn(channels, rank)

    def forward(self, latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
        """``(b c f h w)``, ``(b,)`` and ``(b n c)`` -> ``(b c f h w)``."""
        weight = self.base + self.lora_b @ self.lora_a
        mixed = torch.einsum("ij,bjfhw->bifhw", weight, latents)
        shift = embeds.mean(dim=1) @ self.prompt.T + torch.sin(timestep.double() / 150)[:, None]
        return torch.tanh(mixed + shift[:, :, None, None, None])

    def predict(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """The denoiser as :data:`vader.diffusion.guidance.Predict`."""
        return self(latents, timestep, branch["embeds"])


def tiny_conditioning(clips: int, channels: int = 3, tokens: int = 2, seed: int = 1) -> Conditioning:
    """Random float64 conditioning for :class:`TinyDenoiser`."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(2, clips, tokens, channels, generator=generator, dtype=torch.float64)
    return Conditioning({"embeds": embeds[0]}, {"embeds": embeds[1]})


class FakeDenoiser(nn.Module):
    """One attention block over all cells of a clip, with the layer names that adapters look for."""

    def __init__(self) -> None:
        super().__init__()
        self.proj_in = nn.Linear(CHANNELS, WIDTH)
        self.to_q = nn.Linear(WIDTH, WIDTH)
        self.to_k = nn.Linear(WIDTH, WIDTH)
        self.to_v = nn.Linear(WIDTH, WIDTH)
        self.proj_out = nn.Linear(WIDTH, CHANNELS)
        self.gradient_checkpointing = False

    def forward(self, latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
        """``(b c f h w)``, ``(b,)`` and ``(b n d)`` -> ``(b c f h w)``."""
        cells = latents.flatten(2).transpose(1, 2)
        time = torch.sin(timestep[:, None].to(latents.dtype) / torch.arange(1, WIDTH + 1, device=latents.device) / 50)
        tokens = self.proj_in(cells) + (time + embeds.mean(dim=1))[:, None]
        if self.gradient_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(self._block, tokens, embeds, use_reentrant=False)
        else:
            tokens = self._block(tokens, embeds)
        return self.proj_out(tokens).transpose(1, 2).reshape(latents.shape)

    def _block(self, tokens: Tensor, embeds: Tensor) -> Tensor:
        context = torch.cat([tokens, embeds], dim=1)
        attended = functional.scaled_dot_product_attention(self.to_q(tokens), self.to_k(context), self.to_v(context))
        return tokens + torch.tanh(attended)


class FakeBackboneOptions(vader.Options):
    """Options of :class:`FakeBackbone`."""

    prediction: Literal["epsilon", "v", "sample", "flow"] = Field("epsilon", description="What it predicts.")
    seed: int = Field(0, description="Seed of the random weights.")


class FakeBackbone:
    """A backbone that does all that the protocol asks for, with a thousand random weights."""

    predictions: ClassVar[tuple[Prediction, ...]] = ("epsilon", "v", "sample", "flow")
    default_sampler: ClassVar[str] = "ddim"
    lora_target_modules: ClassVar[tuple[str, ...]] = ("to_q", "to_v")
    gradient_checkpointing: ClassVar[bool] = True
    denoiser_name: ClassVar[str | None] = None
    Options = FakeBackboneOptions

    def __init__(self, options: FakeBackboneOptions, runtime: Runtime) -> None:
        self._runtime = runtime
        generator = torch.Generator().manual_seed(options.seed)
        with torch.random.fork_rng(devices=[]):
            self.denoiser: nn.Module = FakeDenoiser()
        with torch.no_grad():
            for parameter in self.denoiser.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * WIDTH**-0.5)
        self.denoiser.requires_grad_(False).eval().to(runtime.device, runtime.dtype)
        pixels = torch.eye(3, CHANNELS) + 0.1 * torch.randn(3, CHANNELS, generator=generator)
        self._pixels = (0.4 * pixels).to(runtime.device, runtime.dtype)
        self.schedule = fake_schedule(options.prediction)

    @classmethod
    def resolve_video(cls, options: FakeBackboneOptions, requested: Mapping[str, float]) -> Video:
        """Any number of frames; height and width in whole latent cells."""
        size = {side: int(requested.get(side, 8)) for side in ("height", "width")}
        for side, value in size.items():
            if value % PATCH:
                raise ValueError(f"{side} {value} is no multiple of {PATCH}; the nearest is {value - value % PATCH}.")
        return Video(int(requested.get("frames", 4)), fps=requested.get("fps", 8.0), **size)

    def latent_shape(self, video: Video) -> tuple[int, ...]:
        """See :class:`vader.protocols.Backbone`."""
        return CHANNELS, video.frames, video.height // PATCH, video.width // PATCH

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Normal numbers seeded by a hash of the text; the unconditional branch has the empty text."""
        texts = [prompt.text for prompt in prompts]
        return Conditioning({"embeds": self._embeds(texts)}, {"embeds": self._embeds([""] * len(texts))})

    def _embeds(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
            rows.append(torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)))
        return torch.stack(rows).to(self._runtime.device, self._runtime.dtype)

    def predict(self, denoiser: nn.Module, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """The net gives a velocity and the rest follows from it: latents then keep their scale, as trained ones do."""
        dtype = self._runtime.dtype
        velocity: Tensor = denoiser(latents.to(dtype), timestep, branch["embeds"].to(dtype)).to(latents.dtype)
        if self.schedule.alphas_cumprod is None or self.schedule.prediction == "v":
            return velocity
        level = self.schedule.alphas_cumprod.to(latents.device)[timestep.round().long()].to(latents.dtype)
        alpha, sigma = level.sqrt()[:, None, None, None, None], (1 - level).sqrt()[:, None, None, None, None]
        if self.schedule.prediction == "epsilon":
            return alpha * velocity + sigma * latents
        return alpha * latents - sigma * velocity

    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """The first three channels, a little mixed, as pixels of 2x2; frame by frame."""
        wanted = latents if frames is None else latents[:, :, list(frames)]
        pixels = torch.einsum("pc,bcfhw->bfphw", self._pixels.to(wanted.dtype), wanted)
        return from_signed(pixels.repeat_interleave(PATCH, dim=-2).repeat_interleave(PATCH, dim=-1))

    def trunk(self, layers: int, *, weights: bool = True) -> tuple[nn.Module, nn.Module]:
        """A copy of the denoiser, which has one layer; its tokens are the values of the attention."""
        if layers != 1:
            raise WeightsError(f"{layers} layers are wanted of the fake, which has 1.")
        copied = copy.deepcopy(self.denoiser) if weights else copy.deepcopy(self.denoiser).to("meta")
        assert isinstance(copied, FakeDenoiser)
        return copied, copied.to_v

    def encode_clips(self, frames: Tensor) -> Tensor:
        """Every second pixel in each direction, with a fourth channel of zeros."""
        cells = (2 * frames - 1).transpose(1, 2)[..., ::PATCH, ::PATCH]
        return torch.cat([cells, torch.zeros_like(cells[:, :1])], dim=1).to(self._runtime.device, self._runtime.dtype)

    def enable_gradient_checkpointing(self) -> None:
        """See :class:`vader.protocols.Backbone`."""
        assert isinstance(self.denoiser, FakeDenoiser)
        self.denoiser.gradient_checkpointing = True


class Brightness:
    """Higher when a clip's mean is nearer ``level``."""

    differentiable: ClassVar[bool] = True

    class Options(vader.Options):
        """Options of :class:`Brightness`."""

        level: float = Field(1.0, description="The mean wanted.")

    def __init__(self, options: Any) -> None:
        self.level: float = options.level

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f c h w)`` in [0, 1] -> ``(b,)``, at most 0."""
        return -(frames.mean(dim=(1, 2, 3, 4)) - self.level).abs()


class Wording:
    """Higher when a clip's mean is nearer a level that the prompt's letters give."""

    needs_prompt: ClassVar[bool] = True
    Options = vader.Options

    def __init__(self, options: vader.Options) -> None:
        pass

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f c h w)`` in [0, 1] -> ``(b,)``, at most 0."""
        levels = [sum(map(ord, prompt.text)) % 97 / 97 for prompt in prompts]
        return -(frames.mean(dim=(1, 2, 3, 4)) - torch.tensor(levels, dtype=frames.dtype)).square()


class PromptLength:
    """A score without gradient that depends on frames and prompt: share of bright pixels plus letters of the prompt."""

    differentiable: ClassVar[bool] = False
    needs_prompt: ClassVar[bool] = True
    Options = vader.Options

    def __init__(self, options: vader.Options) -> None:
        pass

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f c h w)`` in [0, 1] -> ``(b,)``."""
        letters = torch.tensor([len(prompt.text) for prompt in prompts], device=frames.device, dtype=frames.dtype)
        return (frames.detach() > 0.5).to(frames.dtype).mean(dim=(1, 2, 3, 4)) + letters


class Nearness:
    """Scores latents: higher when their mean is nearer that of their prompt's embedding; less so in noise."""

    input: ClassVar[str] = "latents"
    needs_prompt: ClassVar[bool] = True
    Options = vader.Options

    def __init__(self, options: vader.Options) -> None:
        pass

    def score(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """``(b c f h w)`` -> ``(b,)``, at most 0."""
        wanted = conditioning.positive["embeds"].mean((1, 2)).to(latents.dtype)
        return -(latents.mean((1, 2, 3, 4)) - wanted).square() / (1 + timestep / 1000)


class FakePrompts:
    """Gives prompts of a list, at random."""

    class Options(vader.Options):
        """Options of :class:`FakePrompts`."""

        texts: tuple[str, ...] = Field(
            ("a red circle", "a blue square", "a green triangle"), description="The prompts."
        )

    def __init__(self, options: Any) -> None:
        self.texts: tuple[str, ...] = options.texts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """``n`` prompts; the same state of ``rng`` gives the same ones."""
        return [Prompt(text, {"words": len(text.split())}) for text in rng.choices(self.texts, k=n)]


BRIGHT_CLIP = {"file": "clip-0.mp4", "prompt": "a red circle"}


def write_clips(folder: Path, video: Video, count: int) -> None:
    """Clips of a colour each, and ``clips.jsonl`` with labels from 0 to 1."""
    lines = []
    for index in range(count):
        shade = index / max(1, count - 1)
        frames = torch.full((video.frames, 3, max(16, video.height), max(16, video.width)), 0.5)
        frames[:, 0] = shade
        name = f"clip-{index}.mp4"
        write_clip(folder / name, frames, 8.0)
        lines.append(json.dumps({"file": name, "prompt": ("a red circle", "a blue square")[index % 2], "label": shade}))
    (folder / "clips.jsonl").write_text("\n".join(lines))
