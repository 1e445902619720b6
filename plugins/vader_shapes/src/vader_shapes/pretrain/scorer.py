"""Trains the clip-text scorer by contrast with hard negatives (prompts that differ in one attribute)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from vader_shapes.pretrain.common import Budget, Log, MovingAverage, Training
from vader_shapes.pretrain.defects import distort, latent_noise, morphs, thin
from vader_shapes.pretrain.recipe import Clips, rendered, training_clips
from vader_shapes.scorer import SCORER, ShapesScorer
from vader_shapes.world import (
    VALUES,
    Attributes,
    all_combinations,
    held_out_combinations,
    prompt,
    train_combinations,
)

STRONGEST_NOISE = 0.6  # standard deviations of the latents
NEGATIVE = -1e4


def rivals(attributes: list[Attributes], candidates: list[Attributes]) -> Tensor:
    """`(4, n, m)` bool: candidate j is i itself, or differs from it in the one attribute k only."""
    names = list(VALUES)
    same = torch.tensor([[[getattr(a, k) == getattr(c, k) for c in candidates] for a in attributes] for k in names])
    differing = (~same).sum(0)
    return torch.stack([(differing == 0) | ((differing == 1) & ~same[k]) for k in range(len(names))])


def contrastive_loss(scores: Tensor, soft: Tensor, target: Tensor, hard: Tensor, shape_known: Tensor) -> Tensor:
    """Cross-entropies over the hard negatives of each attribute and over all candidates, plus SigLIP's pair loss.

    Args:
        scores: `(b, m)` log-odds of clips with all training prompts.
        soft: `(b, m)` how far each prompt is right, rows sum to one (a morph is partly two shapes).
        target: `(b,)` index of the main prompt.
        hard: `(4, b, m)` bool from `rivals`.
        shape_known: `(b,)` bool; clips from the VAE, whose shapes it rounds off, teach the other attributes only.
    """
    known = shape_known.float()
    loss = -(known * (soft * scores.log_softmax(1)).sum(1)).mean()
    for k, mask in enumerate(hard):
        within = soft * mask
        within = within / within.sum(1, keepdim=True)
        log_share = scores.masked_fill(~mask, NEGATIVE).log_softmax(1)
        loss = loss - 0.5 * ((known if k == 0 else 1) * (within * log_share).sum(1)).mean()
    own = F.one_hot(target, scores.shape[1]).bool()
    weight = 0.02 + hard[1:].any(0) * ~own + known.unsqueeze(1) * (hard[0] & ~own) + 3 * known.unsqueeze(1) * own
    pairs = F.binary_cross_entropy_with_logits(scores, soft, reduction="none")
    return loss + (weight * pairs).sum(1).mean() / 6


@torch.no_grad()
def choice_accuracy(scorer: ShapesScorer, frames: Tensor, attributes: list[Attributes]) -> dict[str, float]:
    """How often the right prompt scores highest: among those that differ in one attribute, and among all 180."""
    candidates = all_combinations()
    target = torch.tensor([candidates.index(a) for a in attributes])
    scores = torch.cat([scorer.similarities(part, [prompt(c) for c in candidates]) for part in frames.split(72)])
    right = {
        name: (scores.masked_fill(~mask, NEGATIVE).argmax(1) == target).float().mean().item()
        for name, mask in zip(VALUES, rivals(attributes, candidates), strict=True)
    }
    right["all"] = (scores.argmax(1) == target).float().mean().item()
    return {name: round(share, 4) for name, share in right.items()}


@dataclass(frozen=True)
class Pool:
    """Clips `(n f c h w)`, their prompt's index `(n,)`, how far each prompt is right `(n, m)`, shape known `(n,)`."""

    frames: Tensor
    target: Tensor
    soft: Tensor
    shape_known: Tensor


def training_pool(vae: AutoencoderKLWan, classes: list[Attributes], seed: int) -> Pool:
    """Rendered clips, morphs between two shapes, VAE round trips with latent noise; training combinations only."""
    plain = training_clips(8, seed + 20)
    noisy = latent_noise(
        vae, Clips(plain.frames[:720], plain.attributes[:720], plain.prompts[:720]), STRONGEST_NOISE, seed
    )
    pairs = [(a, replace(a, shape=s)) for a in classes for s in VALUES["shape"] if s != a.shape]
    pairs = [(a, b) for a, b in pairs if b in classes] * 5
    share = 0.5 * torch.rand(len(pairs), generator=torch.Generator().manual_seed(seed))
    between = morphs([a for a, _ in pairs], [b.shape for _, b in pairs], share, seed + 23)
    attributes = plain.attributes + plain.attributes[:720] + [a for a, _ in pairs]
    target = torch.tensor([classes.index(a) for a in attributes])
    soft = F.one_hot(target, len(classes)).float()
    rows = torch.arange(len(attributes) - len(pairs), len(attributes))
    soft[rows, target[rows]] = 1 - share
    soft[rows, [classes.index(b) for _, b in pairs]] = share
    known = torch.ones(len(attributes), dtype=torch.bool)
    known[len(plain.attributes) : len(plain.attributes) + 720] = False
    return Pool(torch.cat([plain.frames, noisy, between]), target, soft, known)


def train_scorer(out: Path, budget: Budget, seed: int = 0, check_every: int = 100, weights: Path = SCORER) -> Path:
    """Trains until the budget is used up; continues from `out/scorer.pt` if that exists.

    Needs the folder `out/vae` that `train_vae` leaves.

    Returns:
        The safetensors file `weights` with the averaged network in float16.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan.from_pretrained(out / "vae").eval()
    classes = train_combinations()
    pool = training_pool(vae, classes, seed)
    hard, prompts = rivals(classes, classes), [prompt(a) for a in classes]
    held_out = rendered(held_out_combinations() * 4, seed + 21)
    tests = {"held_out": held_out.frames, "held_out_noisy": latent_noise(vae, held_out, STRONGEST_NOISE, seed + 22)}

    model = ShapesScorer()
    training = Training(out / "scorer.pt", model, budget, seed)
    log = Log(out / "scorer.jsonl")
    while training.progress < 1:
        index = torch.randint(len(pool.target), (budget.batch,), generator=training.generator)
        target = pool.target[index]
        frames = thin(distort(pool.frames[index], training.generator), training.generator)
        scores = model.similarities(frames, prompts)
        loss = training.update(
            contrastive_loss(scores, pool.soft[index], target, hard[:, target], pool.shape_known[index])
        )
        if training.due(check_every):
            training.save()
            averages = averaged(training.average)
            checked = {name: choice_accuracy(averages, f, held_out.attributes) for name, f in tests.items()}
            log.write(step=training.steps, loss=loss, seconds=training.seconds, **checked)
            export_scorer(training.average.values, weights)
    return weights


def averaged(average: MovingAverage) -> ShapesScorer:
    """A scorer with the averaged weights."""
    scorer = ShapesScorer()
    scorer.load_state_dict(average.values)
    return scorer.eval()


def export_scorer(values: Mapping[str, Tensor], path: Path) -> None:
    """Writes averaged weights in float16, replacing what was there when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.half().contiguous() for name, value in values.items()}, temporary)
    temporary.replace(path)
