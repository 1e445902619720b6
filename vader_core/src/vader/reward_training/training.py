"""Training a latent reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from vader.diffusion.conditioning import ConditioningCache
from vader.diffusion.noising import add_noise, draw_timestep
from vader.diffusion.seeding import derive, stream
from vader.errors import NonFiniteError, Problem, RunFolderError, SpecError
from vader.paths import user_path
from vader.protocols import Backbone, GivesTrunk
from vader.resolve import build
from vader.resolve.plan import Plan
from vader.reward_training.examples import Encode, Examples, Progress, gather
from vader.reward_training.judging import Judgement, judge
from vader.reward_training.page import write_page
from vader.reward_training.spec import RewardTrainSpec, read
from vader.rewards import files
from vader.rewards.network import Head, LatentNetwork, tokens
from vader.runs.device import DTYPES
from vader.runs.engine import Engine
from vader.storage import cache_home


@dataclass(frozen=True)
class TrainedReward:
    """A reward that was trained: its folder, which the reward ``latent`` takes, and how good it is by timestep.

    ``cosine`` is the mean cosine of its gradient with the labelling reward's at clean held-out clips, if it learnt it.
    """

    folder: Path
    judgements: tuple[Judgement, ...]
    losses: tuple[float, ...]
    cosine: float | None


def train_reward(
    source: Any, overrides: Sequence[str] = (), progress: Progress = lambda what, done, total: None
) -> TrainedReward:
    """Train a latent reward and write it, with a report.

    It is not resumed: the clips, which cost most, are kept, and the training is made again.

    Args:
        source: a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings.
        progress: told how far it is.

    Raises:
        SpecError: the spec is wrong.
        WeightsError: the backbone or the reward that is distilled cannot be loaded.
        NonFiniteError: the loss became NaN or infinite.
        RunFolderError: the folder cannot be written.
    """
    spec, plan, clips = read(source, overrides)
    folder = user_path(spec.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"output: cannot write to {str(folder)!r}: {error.strerror}.") from error
    device, dtype = Engine(plan.spec).device, DTYPES[plan.spec.train.mixed_precision]
    backbone = build.assemble_backbone(plan, device, dtype)
    encode = ConditioningCache(backbone, device, home=cache_home())
    network = _network(spec, plan, backbone, encode)
    rewards = build.assemble_rewards(plan.rewards, device, dtype, plan.video, backbone)
    context = build.assemble_context(plan, backbone, backbone.denoiser, rewards, device)
    train, held_out = gather(spec, plan, context, encode, clips, progress)
    trainer = _Trainer(spec, backbone, network, encode, device, dtype)
    losses = trainer.run(train, progress)
    judgements = tuple(trainer.judged(held_out, progress))
    cosine = trainer.cosine(held_out)
    _write(spec, folder, network)
    write_page(folder, spec, judgements, losses, cosine)
    return TrainedReward(folder, judgements, tuple(losses), cosine)


def _network(spec: RewardTrainSpec, plan: Plan, backbone: Backbone, encode: Encode) -> LatentNetwork:
    """The network: layers of the denoiser, in float32, and a new head of the width that their tokens have.

    Raises:
        SpecError: the backbone gives no layers, or the heads do not divide their width.
    """
    if not isinstance(backbone, GivesTrunk):
        message = f"{spec.backbone.name!r} does not give its denoiser's first layers. Use one that does, such as wan."
        raise SpecError([Problem("backbone.name", message)])
    trunk, last = backbone.trunk(spec.network.layers)
    prompts = plan.prompts.draw(1, stream(spec.train.seed, "prompts"))
    device = next(trunk.parameters()).device
    clip = torch.zeros(1, *backbone.latent_shape(plan.video), device=device)
    with torch.no_grad():
        at = torch.zeros(1, device=device)
        width = tokens(trunk, last, backbone.predict, clip, at, encode(prompts).positive).shape[-1]
    if width % spec.network.heads:
        message = f"{spec.network.heads} heads do not divide {width}, the width of the tokens."
        raise SpecError([Problem("network.heads", message)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(spec.train.seed, "head"))
        head = Head(width, spec.network.heads, spec.network.hidden or width)
    network = LatentNetwork(trunk.float(), last, head.to(device)).requires_grad_(True)
    if spec.network.init is not None:
        folder = files.locate(spec.network.init)
        files.require_same_denoiser(files.read_config(folder), trunk, spec.network.init)
        network.load_state_dict(files.read_weights(folder, network.state_dict()))
    return network


def _write(spec: RewardTrainSpec, folder: Path, network: LatentNetwork) -> None:
    head = network.head
    hidden = spec.network.hidden or head.query.shape[-1]
    said = spec.model_dump(mode="json", include={"backbone", "loss", "clips", "train", "reward", "sampler", "video"})
    config = files.LatentConfig(
        spec.network.layers, spec.network.heads, int(head.query.shape[-1]), int(hidden),
        files.denoiser_of(network.trunk), said,
    )  # fmt: skip
    files.write(folder, config, network.state_dict())


class _Trainer:
    """Trains and judges one network.

    Args:
        spec: how.
        backbone: whose latents are scored.
        network: float32, on the device.
        encode: conditioning of prompts.
        device: of the network.
        dtype: of autocast; float32 for none.
    """

    def __init__(
        self, spec: RewardTrainSpec, backbone: Backbone, network: LatentNetwork, encode: Encode, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self._spec, self._backbone, self._network, self._encode = spec, backbone, network, encode
        self._device, self._dtype = device, dtype

    def run(self, examples: Examples, progress: Progress) -> list[float]:
        """Train; the loss of every optimizer step.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        spec, network = self._spec.train, self._network
        if self._spec.loss == "regression" and self._spec.network.init is None:
            network.head.shift.fill_(examples.labels.mean())
            network.head.scale.fill_(examples.labels.std().clamp(min=1e-6))
        groups: list[dict[str, Any]] = [
            {"params": [*network.trunk.parameters()], "lr": spec.learning_rate},
            {"params": [*network.head.parameters()], "lr": spec.head_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=spec.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        losses: list[float] = []
        sloped = self._sloped(examples)
        for step in range(spec.steps):
            loss = self._loss(examples, step)
            if sloped:
                rows = stream(spec.seed, "gradient", step).choices(sloped, k=spec.batch_size)
                loss = loss + spec.gradient_weight * (1 - self.cosines(examples, rows)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise NonFiniteError(f"optimizer step {step + 1}: the loss is {losses[-1]}. Lower the learning rates.")
            optimizer.step()
            schedule.step()
            progress("optimizer steps", step + 1, spec.steps)
        return losses

    def _sloped(self, examples: Examples) -> list[int]:
        """Clips whose gradients are learnt: those above the floor, as what is floored has none."""
        floor, gradients = self._spec.clips.floor, examples.gradients
        own = range(len(examples.latents)) if gradients is not None else ()
        return [row for row in own if floor is None or examples.labels[row] > floor]

    def _rate(self, step: int) -> float:
        """Linear warm-up over a twentieth, then a cosine to 0."""
        total = self._spec.train.steps
        warm = max(1, total // 20)
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / total))

    def _loss(self, examples: Examples, step: int) -> Tensor:
        """Of one batch, each clip at a timestep and noise of its own; both clips of a pair have the same."""
        spec, rng = self._spec, stream(self._spec.train.seed, "batch", step)
        size, schedule = spec.train.batch_size, self._backbone.schedule
        paired = spec.loss == "bradley_terry"
        if paired:
            pairs = rng.choices(examples.pairs, k=size)
            rows = [pair[side] for side in (0, 1) for pair in pairs]
        else:
            rows = rng.choices(range(len(examples.rows)), k=size)
        drawn = [0.0 if rng.random() < spec.train.clean else draw_timestep(schedule, rng) for _ in range(size)]
        generator = torch.Generator().manual_seed(derive(spec.train.seed, "noise", step))
        noise = torch.randn(size, *examples.latents.shape[1:], generator=generator)
        repeat = 2 if paired else 1
        scores = self._scores(examples, rows, torch.tensor(drawn * repeat), torch.cat([noise] * repeat))
        if paired:
            better, worse = scores.chunk(2)
            return -functional.logsigmoid(better - worse).mean()
        labels = examples.labels[rows].to(self._device)
        if spec.loss == "cross_entropy":
            return functional.binary_cross_entropy_with_logits(scores, labels)
        return ((scores - labels) / self._network.head.scale).square().mean()

    def _scores(self, examples: Examples, rows: list[int], timestep: Tensor, noise: Tensor) -> Tensor:
        """Of clips noised to these timesteps, ``(b,)``; at 0 they are clean."""
        clean = examples.latents[[examples.rows[row] for row in rows]]
        noised = add_noise(self._backbone.schedule, clean, noise, timestep)
        clear = (timestep == 0).reshape(-1, *[1] * (clean.ndim - 1))
        latents = torch.where(clear, clean, noised).to(self._device)
        branch = self._encode([examples.prompts[row] for row in rows]).positive
        with self._autocast():
            scores = self._network(self._backbone.predict, latents, timestep.to(self._device), branch)
        found: Tensor = scores.float()
        return found

    def cosines(self, examples: Examples, rows: list[int]) -> Tensor:
        """Between its gradient at clean clips, by their own prompts, and that of the reward that labels them, ``(b,)``.

        It can be differentiated, so attention is computed by plain operations: fused ones have no second derivative.
        """
        assert examples.gradients is not None
        latents = examples.latents[rows].to(self._device).requires_grad_(True)
        branch = self._encode([examples.prompts[row] for row in rows]).positive
        timestep = torch.zeros(len(rows), device=self._device)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), self._autocast():
            scores = self._network(self._backbone.predict, latents, timestep, branch)
            (found,) = torch.autograd.grad(scores.float().sum(), latents, create_graph=True)
        wanted = examples.gradients[rows].to(self._device)
        return functional.cosine_similarity(found.flatten(1), wanted.flatten(1))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    @torch.no_grad()
    def judged(self, examples: Examples, progress: Progress) -> list[Judgement]:
        """How good it is at each noise level, clean clips first."""
        spec, levels = self._spec, self._spec.validation.timesteps
        self._network.eval()
        most = self._backbone.schedule.train_timesteps - (self._backbone.schedule.alphas_cumprod is not None)
        found = []
        for level in range(levels):
            timestep = float(round(most * level / (levels - 1)))
            scores = self._all(examples, timestep)
            if spec.loss == "bradley_terry":
                differences = [float(scores[better] - scores[worse]) for better, worse in examples.pairs]
                found.append(judge(spec.loss, timestep, differences, []))
            else:
                truth, own = examples.labels.tolist(), len(examples.latents)
                found.append(judge(spec.loss, timestep, scores.tolist(), truth, own))
            progress("noise levels judged", level + 1, levels)
        return found

    def cosine(self, examples: Examples) -> float | None:
        """The mean of :meth:`cosines`; None where gradients were not learnt."""
        rows, size = self._sloped(examples), self._spec.train.batch_size
        parts = [self.cosines(examples, rows[at : at + size]).detach() for at in range(0, len(rows), size)]
        return float(torch.cat(parts).mean()) if parts else None

    def _all(self, examples: Examples, timestep: float) -> Tensor:
        """Scores of every label's clip at one timestep, on the CPU."""
        size, parts = self._spec.train.batch_size, list[Tensor]()
        generator = torch.Generator().manual_seed(derive(self._spec.validation.seed, "noise", int(timestep)))
        for start in range(0, len(examples.rows), size):
            rows = [*range(start, min(start + size, len(examples.rows)))]
            noise = torch.randn(len(rows), *examples.latents.shape[1:], generator=generator)
            parts.append(self._scores(examples, rows, torch.full((len(rows),), timestep), noise).cpu())
        return torch.cat(parts)
