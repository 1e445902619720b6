"""Trains the scorer of scenes: of prompts that differ from a clip's in one thing, and strange ones, none is right."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor, nn

from vader_shapes.pretrain.common import Budget, Log, Training
from vader_shapes.pretrain.data import Clips, held_out_clips, training_clips
from vader_shapes.pretrain.defects import distort, latent_noise, thin
from vader_shapes.scenes import grammar, renderer, splits
from vader_shapes.scenes.changes import EXCHANGE, SHAPE, changeable, changed
from vader_shapes.scenes.scene import KINDS, Scene
from vader_shapes.scenes.scorer import SCORER, WIDTH, SceneScorer, fit, tokenize

STRONGEST_NOISE = 0.6  # standard deviations of the latents
WORDS_WEIGHT = 20.0  # of the guess at words, a mean over the whole vocabulary
RIVALS = 6  # prompts beside the right one
PLAIN, NOISY, MORPHS = 6000, 2000, 2000  # training clips: rendered, from the VAE with noise, between two shapes


class Reader(nn.Module):
    """The scorer, and beside it, for training alone, a guess at the words of a clip's prompt from its places.

    Until the places tell colours, shapes and ways apart, the words' attention has nothing to find in them, and the
    scorer alone stays at chance for long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scorer = SceneScorer()
        self.words = nn.Linear(2 * WIDTH, len(grammar.vocabulary()))

    def loss(self, frames: Tensor, prompts: Sequence[Sequence[str]], right: Tensor) -> Tensor:
        """`matching_loss` of clips `(b f c h w)` in [0, 1] with k prompts each, the own one first, and of its words."""
        places = self.scorer.clip(fit(frames))
        matched = matching_loss(self.scorer.matched(places, prompts), right)
        return matched + WORDS_WEIGHT * self.words_loss(places, [texts[0] for texts in prompts])

    def words_loss(self, places: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cross-entropy of each word of the vocabulary being in the clip's prompt or not.

        Args:
            places: `(b, 80, 96)` of the clips.
            prompts: b of them.
        """
        pooled = torch.cat([places.mean(1), places.amax(1)], dim=1)
        tokens = tokenize(prompts)
        said = torch.zeros(len(tokens), self.words.out_features).scatter_(1, tokens, 1.0)
        said[:, 0] = 0.0  # no word
        return F.binary_cross_entropy_with_logits(self.words(pooled), said)


@dataclass(frozen=True)
class Pool:
    """Clips `(n f c h w)` with their scenes, how far each shows its own `(n,)`, and the scene it shows for the rest.

    `shape_known`: clips from the VAE, whose shapes it rounds off, teach the other attributes only.
    """

    frames: Tensor
    scenes: list[Scene]
    share: Tensor
    between: list[Scene | None]
    shape_known: list[bool]


def training_pool(vae: AutoencoderKLWan, seed: int, counts: tuple[int, int, int]) -> Pool:
    """Rendered clips, VAE round trips with latent noise, and morphs; training combinations only."""
    plain, rough = training_clips(counts[0], seed + 20), training_clips(counts[1], seed + 21)
    noisy = latent_noise(vae, rough, STRONGEST_NOISE, seed)
    morphed, rest, shares = morphs(counts[2], seed + 22)
    scenes = [*plain.scenes, *rough.scenes, *morphed.scenes]
    ones = torch.ones(counts[0] + counts[1])
    known = [True] * counts[0] + [False] * counts[1] + [True] * counts[2]
    return Pool(
        torch.cat([plain.frames, noisy, morphed.frames]),
        scenes,
        torch.cat([ones, 1 - shares]),
        [None] * len(ones) + rest,
        known,
    )


def morphs(count: int, seed: int) -> tuple[Clips, list[Scene | None], Tensor]:
    """Clips whose first thing's shape lies up to half way to another: with it the scene, and the share `(n,)`."""
    rng, generator = random.Random(f"morphs {seed}"), torch.Generator().manual_seed(seed)
    frames, scenes, others, shares = [], list[Scene](), list[Scene | None](), []
    while len(scenes) < count:
        scene = splits.draw_training(rng, rng.choice([kind for kind in KINDS if kind != "one"]))
        other = changed(scene, SHAPE, rng, place=0)
        if splits.unseen(other):
            continue
        share = 0.5 * rng.random()
        frames.append(renderer.render_morph(scene, 0, other.things[0].shape, share, generator))
        scenes.append(scene)
        others.append(other)
        shares.append(share)
    return Clips(torch.stack(frames), scenes, [grammar.prompt(one) for one in scenes]), others, torch.tensor(shares)


def rivals(scene: Scene, shape_known: bool, rng: random.Random) -> list[Scene]:
    """`RIVALS` scenes that a clip of this one does not show: all but one differ in one thing.

    None is of a combination that training never sees: it would learn that those are never right.
    """
    ways = [way for way in changeable(scene) if shape_known or way not in (SHAPE, EXCHANGE)]
    found: list[Scene] = []
    while len(found) < RIVALS:
        strange = len(found) == RIVALS - 1
        one = splits.draw(scene.kind, rng) if strange else changed(scene, rng.choice(ways), rng)
        if not splits.unseen(one) and (not strange or _look(one) != _look(scene)):
            found.append(one)
    return found


def _look(scene: Scene) -> tuple[str, str, str]:
    """What tells scenes of a kind apart without their shapes."""
    return scene.motion, scene.background, scene.things[0].colour


def matching_loss(scores: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy over the candidates of each clip, plus that of each pair being right or not.

    Args:
        scores: `(b, k)` log-odds of each clip with its candidates.
        right: `(b, k)` how far each candidate is right; rows sum to one.
    """
    choice = -(right * scores.log_softmax(1)).sum(1).mean()
    return choice + F.binary_cross_entropy_with_logits(scores, right)


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
    model = Reader()
    training = Training(out / "scorer.pt", model, budget, seed)
    if training.progress >= 1 and weights.exists():
        return weights
    vae = AutoencoderKLWan.from_pretrained(out / "vae").eval()
    pool = training_pool(vae, seed, counts)
    held_out = held_out_clips(seed + 23, held_out_every)
    tests = {"held_out": held_out.frames, "held_out_noisy": latent_noise(vae, held_out, STRONGEST_NOISE, seed + 24)}
    log = Log(out / "scorer.jsonl")
    while training.progress < 1:
        index = torch.randint(len(pool.scenes), (budget.batch,), generator=training.generator).tolist()
        rng = random.Random(f"rivals {seed} {training.steps}")
        prompts, right = zip(*(_candidates(pool, i, rng) for i in index), strict=True)
        frames = thin(distort(pool.frames[index], training.generator), training.generator)
        loss = training.update(model.loss(frames, prompts, torch.tensor(right)))
        if training.due(save_every):
            training.save()
        if training.due(check_every):
            scorer = SceneScorer()
            scorer.load_state_dict(scorer_of(training.average.values))
            checked = {name: choices(scorer.eval(), frames, held_out.scenes) for name, frames in tests.items()}
            log.write(step=training.steps, loss=loss, seconds=training.seconds, **checked)
    export_scorer(scorer_of(training.average.values), weights)
    return weights


def export_scorer(values: Mapping[str, Tensor], path: Path) -> None:
    """Writes the weights in float16, replacing what was there when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({name: value.half().contiguous() for name, value in values.items()}, temporary)
    temporary.replace(path)


def scorer_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the scorer has of a reader's values by name."""
    return {name.removeprefix("scorer."): value for name, value in values.items() if name.startswith("scorer.")}


def _candidates(pool: Pool, index: int, rng: random.Random) -> tuple[list[str], list[float]]:
    """The prompts for one clip, its own first, and how far each is right."""
    scene, between, share = pool.scenes[index], pool.between[index], float(pool.share[index])
    others = rivals(scene, pool.shape_known[index], rng)
    if between is not None:
        others[0] = between
        others[1:] = [one for one in others[1:] if one != between]
        others += rivals(scene, False, rng)[: RIVALS - len(others)]  # of other things than the shape
    return [grammar.prompt(one) for one in (scene, *others)], [share, 1 - share, *[0.0] * (RIVALS - 1)]


@torch.no_grad()
def choices(scorer: SceneScorer, frames: Tensor, scenes: Sequence[Scene], seed: int = 0) -> dict[str, float]:
    """How often the right prompt scores higher than a change: for each kind of scene, and for each thing changed."""
    rng = random.Random(f"choices {seed}")
    ways = sorted({way for scene in scenes for way in changeable(scene)})
    won: dict[str, list[bool]] = {name: [] for name in (*KINDS, *ways)}
    for clip, scene in zip(frames, scenes, strict=True):
        own = changeable(scene)
        texts = [grammar.prompt(one) for one in (scene, *(changed(scene, way, rng) for way in own))]
        scores = scorer.candidates(clip.unsqueeze(0), [texts])[0]
        for way, score in zip(own, scores[1:], strict=True):
            won[way].append(bool(scores[0] > score))
        won[scene.kind].append(bool(scores[0] > scores[1:].max()))
    return {name: round(sum(values) / len(values), 4) for name, values in won.items() if values}
