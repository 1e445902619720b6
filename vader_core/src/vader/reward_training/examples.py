"""What a latent reward learns from: clean latents, their prompts, and labels or pairs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vader.diffusion.clip_folder import ClipFolder, read_frames
from vader.diffusion.gradient import no_gradient
from vader.diffusion.seeding import derive, stream
from vader.errors import Problem, SpecError
from vader.methods.context import RolloutContext
from vader.paths import user_path
from vader.protocols import Conditioning, EncodesClips, Prompt
from vader.resolve.plan import Plan
from vader.reward_training.spec import RewardTrainSpec
from vader.shapes import Frames, Latents
from vader.storage import write_with

Encode = Callable[[Sequence[Prompt]], Conditioning]
Progress = Callable[[str, int, int], None]
"""``(what is being done, how many, of how many)``."""
CACHE = "clips.safetensors"


@dataclass(frozen=True)
class Examples:
    """Labels of clips, or pairs of them.

    Args:
        latents: ``(clips ...)``, clean, on the CPU.
        rows: of each label, the place of its clip in ``latents``.
        prompts: of each label.
        labels: ``(labels,)``; zeros where pairs say all.
        pairs: places among the labels, the better one first.
        gradients: ``(clips ...)``, of the labelling reward by each clip's own prompt; None where not asked for.
    """

    latents: Latents
    rows: list[int]
    prompts: list[Prompt]
    labels: Tensor
    pairs: list[tuple[int, int]]
    gradients: Tensor | None = None


def gather(
    spec: RewardTrainSpec, plan: Plan, context: RolloutContext, encode: Encode, folder: ClipFolder | None,
    progress: Progress,
) -> tuple[Examples, Examples]:  # fmt: skip
    """Clips to learn from, and held-out ones.

    Those that the model makes are kept in the output folder, and used again as long as the spec asks for the same.

    Raises:
        SpecError: a folder's clips cannot be read.
    """
    if folder is not None:
        return _of_folder(spec, context, encode, folder, progress)
    held_out = spec.validation
    whole = spec.model_dump(mode="json", include={"backbone", "video", "sampler", "prompts", "reward", "clips"})
    whole["clips"].pop("floor")
    if spec.train.gradient_weight:
        whole["gradients"] = True
    seeds = (spec.train.seed, held_out.model_dump(mode="json", exclude={"timesteps"}), spec.train.mixed_precision)
    digest = hashlib.sha256(json.dumps([whole, seeds], sort_keys=True).encode()).hexdigest()
    drawn = plan.prompts.draw(spec.clips.count // spec.clips.group_size, stream(spec.train.seed, "prompts"))
    grouped = [prompt for prompt in drawn for _ in range(spec.clips.group_size)]
    judged = plan.validation_prompts.draw(held_out.clips, stream(held_out.seed, "validation"))
    maker = _Maker(spec, context, encode, progress)
    wanted = {
        "train": (grouped, spec.train.seed, spec.clips.others),
        "held out": (judged, held_out.seed, held_out.others),
    }
    kept = _kept(user_path(spec.output) / CACHE, digest)
    tensors = kept if kept is not None else {}
    for name, (prompts, seed, others) in wanted.items():
        if kept is None:
            made = maker.make(f"{name}: clips made", prompts, seed, others)
            tensors |= {f"{name}/{part}": tensor for part, tensor in made.items()}
    if kept is None:
        _keep(user_path(spec.output) / CACHE, digest, tensors)
    train, held = (
        _labelled(
            tensors[f"{name}/latents"],
            _floored(tensors[f"{name}/labels"], spec),
            prompts,
            seed,
            tensors.get(f"{name}/gradients"),
        )
        for name, (prompts, seed, _) in wanted.items()
    )
    return _paired(train, spec), _paired(held, spec)


def _floored(labels: Tensor, spec: RewardTrainSpec) -> Tensor:
    return labels if spec.clips.floor is None else labels.clamp(min=spec.clips.floor)


def _others(prompts: Sequence[Prompt], seed: int, turn: int) -> list[Prompt]:
    """Another prompt for every clip: those of all clips in another order."""
    return stream(seed, "others", turn).sample(list(prompts), len(prompts))


def _labelled(latents: Latents, labels: Tensor, prompts: list[Prompt], seed: int, gradients: Tensor | None) -> Examples:
    """``(turns, clips)`` labels, the first turn's by the clips' own prompts."""
    turns, count = labels.shape
    texts = [prompts, *(_others(prompts, seed, turn) for turn in range(1, turns))]
    return Examples(latents, [*range(count)] * turns, [*itertools.chain(*texts)], labels.flatten(), [], gradients)


def _paired(examples: Examples, spec: RewardTrainSpec) -> Examples:
    """With every pair of neighbouring clips of one prompt whose labels differ, for bradley_terry."""
    if spec.loss != "bradley_terry":
        return examples
    by_prompt: dict[str, list[int]] = {}
    for place, prompt in enumerate(examples.prompts):
        by_prompt.setdefault(prompt.text, []).append(place)
    pairs = []
    for places in by_prompt.values():
        ranked = sorted(places, key=lambda place: float(examples.labels[place]), reverse=True)
        pairs += [
            (better, worse)
            for better, worse in itertools.combinations(ranked, 2)
            if examples.labels[better] > examples.labels[worse]
        ]
    if not pairs:
        message = "no two clips of one prompt have different labels. Take more clips, or a larger group_size."
        raise SpecError([Problem("clips", message)])
    return Examples(examples.latents, examples.rows, examples.prompts, examples.labels, pairs)


class _Maker:
    """Makes the model's clips and labels them."""

    def __init__(self, spec: RewardTrainSpec, context: RolloutContext, encode: Encode, progress: Progress) -> None:
        self._spec, self._context, self._encode, self._progress = spec, context, encode, progress

    @torch.no_grad()
    def make(self, what: str, prompts: list[Prompt], seed: int, others: int) -> dict[str, Tensor]:
        """Latents ``(clips ...)``, labels ``(1 + others, clips)`` and, if asked for, gradients, on the CPU."""
        context, size = self._context, self._spec.train.batch_size
        orders = [prompts, *(_others(prompts, seed, turn) for turn in range(1, others + 1))]
        made, labels, gradients = list[Tensor](), list[Tensor](), list[Tensor]()
        for start in range(0, len(prompts), size):
            rows = range(start, min(start + size, len(prompts)))
            noise = [derive(seed, "clip", row) for row in rows]
            conditioning = self._encode([prompts[row] for row in rows])
            latents = context.sample(conditioning, noise, no_gradient(len(context.sampler.timesteps)))
            frames = context.decode(latents, None) if context.frame_rewards else None
            turns = [_label(context, self._encode, latents, frames, [order[row] for row in rows]) for order in orders]
            made.append(latents.float().cpu())
            labels.append(torch.stack(turns).float().cpu())
            if self._spec.train.gradient_weight:
                gradients.append(self._gradient(latents, orders[0][rows.start : rows.stop]))
            self._progress(what, rows.stop, len(prompts))
        found = {"latents": torch.cat(made), "labels": torch.cat(labels, dim=1)}
        return {**found, "gradients": torch.cat(gradients)} if gradients else found

    @torch.enable_grad()
    def _gradient(self, latents: Latents, prompts: list[Prompt]) -> Tensor:
        """Of the reward with respect to clean latents, through the decoder where it sees frames."""
        leaf = latents.detach().requires_grad_(True)
        frames = self._context.decode(leaf, None) if self._context.frame_rewards else None
        scores = _label(self._context, self._encode, leaf, frames, prompts)
        (found,) = torch.autograd.grad(scores.sum(), leaf)
        return found.float().cpu()


def _label(
    context: RolloutContext, encode: Encode, latents: Latents, frames: Frames | None, prompts: list[Prompt]
) -> Tensor:
    """What the reward says of clean clips, ``(b,)``."""
    scores = context.judge(latents, context.timestep_after(-1), frames, prompts, encode(prompts))
    return scores[next(iter(context.rewards))]


def _of_folder(
    spec: RewardTrainSpec, context: RolloutContext, encode: Encode, folder: ClipFolder, progress: Progress
) -> tuple[Examples, Examples]:
    """A folder's clips, encoded, labelled where they have no label; the last ones of a random order are held out."""
    backbone = context.backbone
    if not isinstance(backbone, EncodesClips):
        message = (
            f"the backbone {spec.backbone.name!r} makes no latents of clips. Leave it out: the model makes its own."
        )
        raise SpecError([Problem("clips.folder", message)])
    latents, labels = list[Tensor](), list[float]()
    for done, row in enumerate(folder.rows, 1):
        try:
            frames = read_frames(row.file, context.video)[None].to(context.device)
        except ValueError as error:
            raise SpecError([Problem("clips.folder", str(error))]) from error
        clip = backbone.encode_clips(frames)
        latents.append(clip.float().cpu())
        label = row.label
        if label is None and context.rewards:
            with torch.no_grad():
                label = float(_label(context, encode, clip, frames, [row.prompt]))
        labels.append(0.0 if label is None else label)  # without a reward, of pairs alone
        progress("clips encoded", done, len(folder.rows))
    prompts = [row.prompt for row in folder.rows]
    whole = Examples(
        torch.cat(latents), [*range(len(prompts))], prompts, _floored(torch.tensor(labels), spec), folder.pairs
    )
    units = [*range(len(folder.pairs if spec.loss == "bradley_terry" else prompts))]
    stream(spec.train.seed, "held out").shuffle(units)
    cut = len(units) - max(1, round(spec.clips.held_out * len(units)))
    if cut < 1:
        message = f"{len(units)} {'pairs' if spec.loss == 'bradley_terry' else 'clips'} leave none to learn from."
        raise SpecError([Problem("clips.held_out", message)])
    return _part(whole, units[:cut], spec), _part(whole, units[cut:], spec)


def _part(whole: Examples, units: list[int], spec: RewardTrainSpec) -> Examples:
    """Some of the labels or, for bradley_terry, of the pairs."""
    if spec.loss == "bradley_terry":
        return Examples(whole.latents, whole.rows, whole.prompts, whole.labels, [whole.pairs[unit] for unit in units])
    latents, prompts = whole.latents[units], [whole.prompts[unit] for unit in units]
    return Examples(latents, [*range(len(units))], prompts, whole.labels[units], [])


def _kept(file: Path, digest: str) -> dict[str, Tensor] | None:
    """The clips that an earlier training of the same spec has made; None without."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            if (opened.metadata() or {}).get("digest") != digest:
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError):
        return None


def _keep(file: Path, digest: str, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"digest": digest})
    write_with(file, lambda handle: handle.write(data))
