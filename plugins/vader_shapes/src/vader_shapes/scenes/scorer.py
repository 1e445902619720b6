"""`SceneScorer`: a small learned clip-text scorer for scenes, differentiable in pixels; it never sees the evaluator.

A pair of unit vectors cannot tell "a red circle left of a blue square" from its exchange: what belongs to what is lost
in pooling. So the network gathers, for each colour, the places that show it, and reads from their forms what the
objects of that colour are and do; the score is how probable it finds all that the prompt says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vader_shapes import WEIGHTS
from vader_shapes.scenes.facts import NOTHING, VALUES, Facts, said
from vader_shapes.scenes.scene import BACKGROUNDS, COLOURS, FRAMES, RELATIONS, SIZE

SCORER = WEIGHTS / "scorer" / "model.safetensors"
WIDTH, OBJECT = 96, 128
DOUBT = 0.1
GROUND_SPREADS = (1.0, 0.5, 0.25, 0.1)  # in which pixels count as background, in [-1, 1]
PLACES = (5, 8, 8)  # frames, height and width of what is gathered


def require_pairs(frames: Tensor, prompts: Sequence[object]) -> None:
    """Check that there is a clip `(f c h w)` of at least two frames for each prompt.

    Raises:
        ValueError: the layout is another, or the counts differ.
    """
    if frames.ndim != 5 or frames.shape[2] != 3 or frames.shape[1] < 2:
        raise ValueError(f"frames must be (b, f >= 2, 3, h, w), got {tuple(frames.shape)}")
    if len(prompts) != len(frames):
        raise ValueError(f"{len(frames)} clips but {len(prompts)} prompts")


def fit(frames: Tensor) -> Tensor:
    """Resizes clips of any length and size to `(b, 9, 3, 32, 32)` by trilinear interpolation, in [-1, 1]."""
    video = frames.float().clamp(0, 1).transpose(1, 2) * 2 - 1
    if video.shape[2:] != (FRAMES, SIZE, SIZE):
        video = F.interpolate(video, size=(FRAMES, SIZE, SIZE), mode="trilinear", align_corners=True)
    return video.transpose(1, 2)


def ground(frames: Tensor) -> Tensor:
    """`(b 3)`: the colour of most pixels of clips `(b f 3 h w)`, by mean shift, whose gradient is smooth."""
    pixels = frames.transpose(1, 2).flatten(2)
    found = pixels.mean(dim=2, keepdim=True)
    for spread in GROUND_SPREADS:
        near = torch.exp(-(((pixels - found) / spread) ** 2) / 2)
        found = (near * pixels).sum(2, keepdim=True) / near.sum(2, keepdim=True)
    return found.squeeze(2)


class ColourEncoder(nn.Module):
    """How much each of `PLACES` shows each colour."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, channels, 1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
        )
        self.shown = nn.Linear(channels, len(COLOURS))
        self.background = nn.Linear(channels, len(BACKGROUNDS))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`(b, 9, 3, 32, 32)` in [-1, 1] to `(b c 320)` in [0, 1], and log-odds of backgrounds `(b, 1, 3)`."""
        hidden = self.frame(frames[:, ::2].flatten(0, 1)).unflatten(0, (len(frames), -1))
        places = hidden.movedim(2, -1).flatten(1, 3)
        return torch.sigmoid(self.shown(places)).transpose(1, 2), self.background(places.mean(1, keepdim=True))


class FormEncoder(nn.Module):
    """Convolutions over what differs from the background, then over time, to one vector for each of `PLACES`."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, channels // 2, 5, padding=2),
            nn.GroupNorm(4, channels // 2),
            nn.SiLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            nn.GroupNorm(4, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(4, channels),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.GroupNorm(4, 2 * channels),
            nn.SiLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.SiLU(),
        )
        self.time = nn.Conv3d(2 * channels, WIDTH, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        self.place = nn.Parameter(torch.randn(PLACES[0] * PLACES[1] * PLACES[2], WIDTH) * 0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """`(b, 9, 3, 32, 32)` in [-1, 1] to `(b, 320, 96)`."""
        shown = frames - ground(frames)[:, None, :, None, None]
        hidden = self.frame(shown.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return F.silu(self.time(hidden.transpose(1, 2)).flatten(2).transpose(1, 2) + self.place)


@dataclass(frozen=True)
class Reading:
    """Log-probabilities of what b clips show, in the order of the fields of `Facts`.

    Args:
        present: `(b c 2)`.
        properties: for each of `VALUES`, `(b c values)`.
        relation: `(b p 6)`.
        background: `(b 1 3)`.
    """

    present: Tensor
    properties: list[Tensor]
    relation: Tensor
    background: Tensor

    def log_probability(self, facts: Facts) -> Tensor:
        """`(b,)`: of all that `facts` of as many prompts say, as if each thing were independent of the others."""
        properties = [_of(read, facts.properties[..., i]) for i, read in enumerate(self.properties)]
        whole = [(self.present, facts.present), (self.relation, facts.relation), (self.background, facts.background)]
        return torch.stack(properties + [_of(read, values) for read, values in whole]).sum(0)

    def doubted(self, doubt: float) -> Reading:
        """The same, but that each thing is a mere guess with probability `doubt`."""

        def less(read: Tensor) -> Tensor:
            return torch.log((1 - doubt) * read.exp() + doubt / read.shape[-1])

        properties = [less(read) for read in self.properties]
        return Reading(less(self.present), properties, less(self.relation), less(self.background))


def _of(read: Tensor, values: Tensor) -> Tensor:
    """`(b,)`: the sum of log-probabilities `(b n values)` at `values` `(b n)`; 0 for `NOTHING`."""
    chosen = read.gather(-1, values.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(values == NOTHING, 0.0, chosen).sum(1)


class SceneScorer(nn.Module):
    """How well clips show what their prompts say."""

    def __init__(self) -> None:
        super().__init__()
        self.colours, self.forms = ColourEncoder(), FormEncoder()
        self.value = nn.Linear(WIDTH, WIDTH)
        self.object = nn.Sequential(nn.Linear(3 * WIDTH, OBJECT), nn.GELU(), nn.Linear(OBJECT, OBJECT), nn.GELU())
        self.present = nn.Linear(OBJECT, 2)
        self.properties = nn.ModuleList(nn.Linear(OBJECT, len(values)) for values in VALUES.values())
        self.pair = nn.Sequential(nn.Linear(2 * OBJECT, OBJECT), nn.GELU(), nn.Linear(OBJECT, len(RELATIONS)))

    def read(self, frames: Tensor, recoloured: Tensor | None = None) -> Reading:
        """What clips `(b f c h w)` in [0, 1] show.

        Args:
            frames: the clips.
            recoloured: the same in other colours, in which forms are seen: training on any teaches the network that
                colours say nothing of forms. None for `frames`.
        """
        fitted = fit(frames)
        weights, background = self.colours(fitted)
        values = self.value(self.forms(fitted if recoloured is None else fit(recoloured)))
        gathered = weights @ values
        mean = gathered / (weights.sum(-1, keepdim=True) + 1e-3)
        peak = torch.log(weights @ torch.exp(4 * torch.tanh(values)) + 1e-3) / 4  # a smooth maximum
        objects = self.object(torch.cat([mean, gathered / PLACES[-1], peak], dim=-1))
        count = len(COLOURS)
        pairs = torch.cat([objects.repeat_interleave(count, 1), objects.repeat(1, count, 1)], dim=-1)
        return Reading(
            self.present(objects).log_softmax(-1),
            [head(objects).log_softmax(-1) for head in self.properties],
            self.pair(pairs).log_softmax(-1),
            background.log_softmax(-1),
        )

    def forward(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores clips against their prompts.

        Args:
            frames: `(b f c h w)` RGB in [0, 1], f >= 2, any size (resized inside).
            prompts: b texts.

        Returns:
            `(b,)`, at most 0, higher is better: the log-probability that the clip shows all that the prompt says in
            words of the grammar, with a doubt of `DOUBT` in each thing, so that what a clip has no trace of does not
            drown what it nearly shows; differentiable in `frames`.

        Raises:
            ValueError: if the layout is another, or the counts differ.
        """
        require_pairs(frames, prompts)
        return self.read(frames).doubted(DOUBT).log_probability(said(prompts).to(frames.device))


def load_scorer(path: str | Path = SCORER) -> SceneScorer:
    """The trained scorer in float32, frozen and in eval mode."""
    scorer = SceneScorer()
    scorer.load_state_dict({name: value.float() for name, value in load_file(str(path)).items()})
    return scorer.eval().requires_grad_(False)
