"""`ShapesScorer`: a small learned clip-text scorer, differentiable in the pixels. It never sees the exact evaluator.

Like SigLIP (arXiv 2303.15343): a video encoder and a text encoder end in unit vectors, and the score, their scaled
cosine plus a bias, is the log-odds that clip and text belong together. Appearance is encoded per frame and pooled over
space, which keeps it independent of place; motion comes from soft object positions over time, so that it has a
gradient wherever the object is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vader_shapes.model import WEIGHTS, vocabulary
from vader_shapes.world import FRAMES, SIZE

SCORER = WEIGHTS / "scorer" / "model.safetensors"
MAX_WORDS = 16


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Word ids `(b, 16)`: lower-cased words, 0 where there is none, 2 where the word is unknown."""
    return word_ids(prompts, vocabulary(), MAX_WORDS)


def word_ids(prompts: Sequence[str], known: Sequence[str], length: int) -> Tensor:
    """Ids `(b, length)` of lower-cased words among the known ones, 0 where there is none, `<unk>`'s for others."""
    ids = {word: i for i, word in enumerate(known)}
    rows = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, text in zip(rows, prompts, strict=True):
        words = [ids.get(word, ids["<unk>"]) for word in text.lower().split()][:length]
        row[: len(words)] = torch.tensor(words, dtype=torch.long)
    return rows


def require_pairs(frames: Tensor, prompts: Sequence[str]) -> None:
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


class TextEncoder(nn.Module):
    """Word and place embeddings, one transformer layer, mean over the words."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(vocabulary()), width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(MAX_WORDS, width) * 0.02)
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(b, 16)` word ids to `(b, width)`."""
        absent = tokens == 0
        absent[:, 0] = False  # an empty prompt still has one place to attend to
        hidden = self.layer(self.words(tokens) + self.places, src_key_padding_mask=absent)
        present = (~absent).unsqueeze(-1).float()
        return self.out((hidden * present).sum(1) / present.sum(1))


class VideoEncoder(nn.Module):
    """Per-frame convolutions, pooled over space for appearance; soft positions over time for motion."""

    def __init__(self, width: int, channels: int = 32, keypoints: int = 8) -> None:
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
        self.keypoints = nn.Conv2d(2 * channels, keypoints, 1)
        self.appearance = nn.Linear(4 * channels, width)
        self.motion = nn.Sequential(
            nn.Conv1d(2 * keypoints, 48, 3), nn.SiLU(), nn.Conv1d(48, 48, 3), nn.SiLU(), nn.Flatten(),
            nn.Linear(48 * (FRAMES - 5), width),
        )  # fmt: skip
        self.out = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, frames: Tensor) -> Tensor:
        """`(b, 9, 3, 32, 32)` in [-1, 1] to `(b, width)`."""
        b, f = frames.shape[:2]
        hidden = self.frame(frames.flatten(0, 1))
        peak = torch.logsumexp(4 * hidden.flatten(2), dim=2) / 4  # a smooth maximum
        pooled = torch.cat([hidden.mean(dim=(2, 3)), peak], dim=1).unflatten(0, (b, f)).mean(1)
        weights = self.keypoints(hidden).flatten(2).softmax(dim=2).unflatten(2, hidden.shape[2:])
        axis = torch.linspace(-1, 1, hidden.shape[-1], device=frames.device)
        places = torch.cat([(weights.sum(2) * axis).sum(2), (weights.sum(3) * axis).sum(2)], dim=1)
        steps = places.unflatten(0, (b, f)).diff(dim=1) * 8  # differences: motion, not place
        moved = self.motion(steps.transpose(1, 2))
        return self.out(torch.cat([self.appearance(pooled), moved], dim=1))


class ShapesScorer(nn.Module):
    """How well clips show what their prompts say."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.text = TextEncoder(width)
        self.video = VideoEncoder(width)
        self.log_scale = nn.Parameter(torch.tensor(2.7))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def similarities(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores of every clip with every prompt, `(b, p)`; `frames` `(b f c h w)` in [0, 1]."""
        tokens = tokenize(prompts).to(self.log_scale.device)
        clip = F.normalize(self.video(fit(frames)), dim=-1, eps=1e-4)
        text = F.normalize(self.text(tokens), dim=-1, eps=1e-4)
        return self.log_scale.clamp(max=4.0).exp() * clip @ text.T + self.bias

    def forward(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores clips against their prompts.

        Args:
            frames: `(b f c h w)` RGB in [0, 1], f >= 2, any size (resized inside).
            prompts: b texts.

        Returns:
            `(b,)`, higher is better: log-odds that the clip shows the prompt; differentiable in `frames`.

        Raises:
            ValueError: if the layout is another, or the counts differ.
        """
        require_pairs(frames, prompts)
        tokens = tokenize(prompts).to(self.log_scale.device)
        clip = F.normalize(self.video(fit(frames)), dim=-1, eps=1e-4)
        text = F.normalize(self.text(tokens), dim=-1, eps=1e-4)
        return self.log_scale.clamp(max=4.0).exp() * (clip * text).sum(-1) + self.bias


def load_scorer(path: str | Path = SCORER) -> ShapesScorer:
    """The trained scorer in float32, frozen and in eval mode."""
    scorer = ShapesScorer()
    scorer.load_state_dict({name: value.float() for name, value in load_file(str(path)).items()})
    return scorer.eval().requires_grad_(False)
