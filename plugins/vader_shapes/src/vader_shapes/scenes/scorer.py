"""`SceneScorer`: a small learned clip-text scorer for scenes, differentiable in pixels; it never sees the evaluator.

A pair of unit vectors cannot tell "a red circle left of a blue square" from its exchange: what belongs to what is lost
in pooling. So the words attend to places of the clip (cross-attention, as in BLIP's matching head, arXiv 2201.12086),
and the score is the log-odds that clip and text belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vader_shapes import WEIGHTS
from vader_shapes.scenes.grammar import vocabulary
from vader_shapes.scenes.scene import FRAMES, SIZE

SCORER = WEIGHTS / "scorer" / "model.safetensors"
MAX_WORDS = 20
WIDTH, HEADS, LAYERS = 96, 4, 2
PLACES = (5, 4, 4)  # frames, height and width of what the words attend to


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Word ids `(b, 20)`: lower-cased words, 0 where there is none, 2 where the word is unknown."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    rows = torch.zeros(len(prompts), MAX_WORDS, dtype=torch.long)
    for row, text in zip(rows, prompts, strict=True):
        words = [ids.get(word, ids["<unk>"]) for word in text.lower().split()][:MAX_WORDS]
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


class ClipEncoder(nn.Module):
    """Convolutions over each frame, then over time, to one vector for each of `PLACES`."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, channels, 3, padding=1),
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
        self.time = nn.Conv3d(2 * channels, WIDTH, 3, stride=2, padding=1)
        self.place = nn.Parameter(torch.randn(PLACES[0] * PLACES[1] * PLACES[2], WIDTH) * 0.02)

    def forward(self, frames: Tensor) -> Tensor:
        """`(b, 9, 3, 32, 32)` in [-1, 1] to `(b, 80, 96)`."""
        hidden = self.frame(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return F.silu(self.time(hidden.transpose(1, 2))).flatten(2).transpose(1, 2) + self.place


class SceneScorer(nn.Module):
    """How well clips show what their prompts say."""

    def __init__(self) -> None:
        super().__init__()
        self.clip = ClipEncoder()
        self.words = nn.Embedding(len(vocabulary()), WIDTH, padding_idx=0)
        self.places = nn.Parameter(torch.randn(MAX_WORDS, WIDTH) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        )
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    def candidates(self, frames: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        """Scores `(b, k)` of each clip `(b f c h w)` in [0, 1] with the k prompts of its own."""
        return self.matched(self.clip(fit(frames)), prompts)

    def matched(self, places: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
        """`candidates` of clips whose places `(b, 80, 96)` the encoder has given."""
        count = len(prompts[0])
        memory = places.repeat_interleave(count, dim=0)
        tokens = tokenize([text for texts in prompts for text in texts]).to(memory.device)
        absent = tokens == 0
        absent[:, 0] = False  # an empty prompt still has one place to attend to
        hidden = self.words(tokens) + self.places
        for layer in self.layers:
            hidden = layer(hidden, memory, tgt_key_padding_mask=absent)
        present = (~absent).unsqueeze(-1).float()
        return self.out((hidden * present).sum(1) / present.sum(1)).view(-1, count)

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
        return self.candidates(frames, [[text] for text in prompts])[:, 0]


def load_scorer(path: str | Path = SCORER) -> SceneScorer:
    """The trained scorer in float32, frozen and in eval mode."""
    scorer = SceneScorer()
    scorer.load_state_dict({name: value.float() for name, value in load_file(str(path)).items()})
    return scorer.eval().requires_grad_(False)
