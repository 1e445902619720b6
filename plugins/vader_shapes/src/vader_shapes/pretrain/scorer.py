"""Trains the scorer of scenes: what a clip's prompt says becomes probable."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from vader_shapes.pretrain.common import Budget, Log, Training
from vader_shapes.pretrain.data import Clips, held_out_clips, rendered
from vader_shapes.pretrain.defects import attacked, distort, latent_noise, thin
from vader_shapes.pretrain.export import export_weights
from vader_shapes.scenes import grammar, renderer, splits
from vader_shapes.scenes.changes import SHAPE, changeable, changed
from vader_shapes.scenes.facts import said
from vader_shapes.scenes.scene import KINDS, Scene
from vader_shapes.scenes.scorer import SCORER, SceneScorer

STRONGEST_NOISE = 0.6  # standard deviations of the latents
STRONGEST_ATTACK = 3.0  # Euclidean distance of the pixels of a clip
PLAIN, NOISY, MORPHS = 6000, 2000, 2000  # training clips: rendered, from the VAE with noise, between two shapes


@dataclass(frozen=True)
class Pool:
    """Clips `(n f c h w)` with their prompts, how far each shows its own `(n,)`, and the prompt of the rest.

    `shape_known`: clips from the VAE, whose shapes it rounds off, teach the other attributes only.
    """

    frames: Tensor
    prompts: list[str]
    share: Tensor
    others: list[str]
    shape_known: Tensor


def training_pool(vae: AutoencoderKLWan, seed: int, counts: tuple[int, int, int]) -> Pool:
    """Rendered clips, VAE round trips with latent noise, and morphs, of all combinations.

    A scorer that never saw two triangles would learn that there are none.
    """
    plain, rough = (
        rendered(splits.any_scenes(count, seed + 20 + i), seed + 20 + i) for i, count in enumerate(counts[:2])
    )
    noisy = latent_noise(vae, rough, STRONGEST_NOISE, seed)
    morphed, rest, shares = morphs(counts[2], seed + 22)
    prompts = [*plain.prompts, *rough.prompts]
    ones = torch.ones(counts[0] + counts[1])
    known = torch.tensor([True] * counts[0] + [False] * counts[1] + [True] * counts[2])
    return Pool(
        torch.cat([plain.frames, noisy, morphed.frames]),
        prompts + morphed.prompts,
        torch.cat([ones, 1 - shares]),
        prompts + [grammar.prompt(scene) for scene in rest],
        known,
    )


def morphs(count: int, seed: int) -> tuple[Clips, list[Scene], Tensor]:
    """Clips whose first thing's shape lies up to half way to another: with it the scene, and the share `(n,)`."""
    rng, generator = random.Random(f"morphs {seed}"), torch.Generator().manual_seed(seed)
    frames, scenes, others, shares = [], list[Scene](), list[Scene](), []
    while len(scenes) < count:
        scene = splits.draw(rng.choice([kind for kind in KINDS if kind != "one"]), rng)
        other = changed(scene, SHAPE, rng, place=0)
        share = 0.5 * rng.random()
        frames.append(renderer.render_morph(scene, 0, other.things[0].shape, share, generator))
        scenes.append(scene)
        others.append(other)
        shares.append(share)
    return Clips(torch.stack(frames), scenes, [grammar.prompt(one) for one in scenes]), others, torch.tensor(shares)


def recoloured(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Clips `(b f 3 h w)` in [0, 1] whose colours are mixed anew, for each clip in another way."""
    mix = torch.randn(len(frames), 3, 3, generator=generator) / 4  # hardly anything leaves the range
    return (0.5 + torch.einsum("bij,bfjhw->bfihw", mix, frames - 0.5)).clamp(0, 1)


def negative_log_likelihood(
    scorer: SceneScorer, pool: Pool, index: Tensor, frames: Tensor, forms: Tensor | None = None
) -> Tensor:
    """Of what the clips `index` `(b,)` of a pool show, in the mean; a morph shows either shape by its share.

    Args:
        frames: `(b f c h w)` in [0, 1], those clips, distorted.
        forms: the same, recoloured; None for `frames`.
    """
    unknown = ~pool.shape_known[index]
    reading = scorer.read(frames, forms)
    one, other = (
        reading.log_probability(said([prompts[i] for i in index.tolist()]).without_shapes(unknown))
        for prompts in (pool.prompts, pool.others)
    )
    return -torch.lerp(other, one, pool.share[index]).mean()


def train_scorer(
    out: Path,
    budget: Budget,
    seed: int = 0,
    save_every: int = 100,
    check_every: int = 500,
    weights: Path = SCORER,
    counts: tuple[int, int, int] = (PLAIN, NOISY, MORPHS),
    held_out_every: int = 1,
) -> Path:
    """Trains until the budget is used up; continues from `out/scorer.pt` if that exists.

    Needs the folder `out/vae` that `train_vae` leaves.

    Returns:
        The safetensors file `weights` with the averaged network in float16.
    """
    torch.manual_seed(seed)
    scorer = SceneScorer()
    training = Training(out / "scorer.pt", scorer, budget, seed)
    if training.progress >= 1 and weights.exists():
        return weights
    vae = AutoencoderKLWan.from_pretrained(out / "vae").eval()
    pool = training_pool(vae, seed, counts)
    held_out = held_out_clips(seed + 23, held_out_every)
    tests = {"held_out": held_out.frames, "held_out_noisy": latent_noise(vae, held_out, STRONGEST_NOISE, seed + 24)}
    log = Log(out / "scorer.jsonl")
    while training.progress < 1:
        index = torch.randint(len(pool.prompts), (budget.batch,), generator=training.generator)
        frames = thin(distort(pool.frames[index], training.generator), training.generator)
        loss_of = partial(negative_log_likelihood, scorer, pool, index)
        frames = attacked(frames, loss_of, STRONGEST_ATTACK, training.generator)
        loss = training.update(loss_of(frames, recoloured(frames, training.generator)))
        if training.due(save_every):
            training.save()
        if training.due(check_every):
            averaged = SceneScorer()
            averaged.load_state_dict(training.average.values)
            checked = {name: choices(averaged.eval(), frames, held_out.scenes) for name, frames in tests.items()}
            log.write(step=training.steps, loss=loss, seconds=training.seconds, **checked)
    return export_weights(training.average.values, weights)


@torch.no_grad()
def choices(scorer: SceneScorer, frames: Tensor, scenes: Sequence[Scene], seed: int = 0) -> dict[str, float]:
    """How often the right prompt scores higher than a change: for each kind of scene, and for each thing changed."""
    rng = random.Random(f"choices {seed}")
    ways = sorted({way for scene in scenes for way in changeable(scene)})
    won: dict[str, list[bool]] = {name: [] for name in (*KINDS, *ways)}
    for clip, scene in zip(frames, scenes, strict=True):
        own = changeable(scene)
        texts = [grammar.prompt(one) for one in (scene, *(changed(scene, way, rng) for way in own))]
        scores = scorer(clip.expand(len(texts), *clip.shape), texts)
        for way, score in zip(own, scores[1:], strict=True):
            won[way].append(bool(scores[0] > score))
        won[scene.kind].append(bool(scores[0] > scores[1:].max()))
    return {name: round(sum(values) / len(values), 4) for name, values in won.items() if values}
