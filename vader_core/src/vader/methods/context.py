"""A context: the live components of a run, put together so that a method can make clips and judge them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from vader.diffusion.gradient import Draw, Window
from vader.diffusion.guidance import Branches, Combine, Recompute, classifier_free, guided
from vader.diffusion.offload import kept_on
from vader.diffusion.precision import upcast
from vader.diffusion.rollout import ClipNoise, OnStep, predict_step, rollout
from vader.diffusion.shortcuts import Shortcuts
from vader.errors import blame
from vader.methods.contrast import Contrast
from vader.methods.objective import Objective
from vader.methods.phase_timer import PhaseTimer as PhaseTimer
from vader.methods.query_counter import QueryCounter
from vader.methods.scoring import ask_latent_reward, ask_reward
from vader.protocols import (
    SCORE,
    Backbone,
    Batch,
    Branch,
    CombinesGuidance,
    Conditioning,
    DecodePlan,
    DecodesForReward,
    LatentReward,
    Prompt,
    Reward,
    Sampler,
    VariesGuidance,
    Video,
    capability,
)
from vader.shapes import Frames, Latents, Scores
from vader.weights import lora


@dataclass(frozen=True)
class ScoredClips:
    """Clips that have been made and judged.

    Args:
        latents: ``(b ...)``, where the rollout ended.
        scores: raw scores by reward, and their parts, each ``(b,)``.
        reward: their weighted combination, ``(b,)``.
    """

    latents: Latents
    scores: Mapping[str, Scores]
    reward: Scores

    def detached_scores(self) -> dict[str, Scores]:
        """Raw scores without their graph, for logs."""
        return {key: score.detach() for key, score in self.scores.items()}


def _named(component: object) -> str:
    """What a component is called where its name in the spec is not known."""
    return type(component).__name__


def sees_latents(reward: Reward | LatentReward) -> TypeGuard[LatentReward]:
    """Whether a reward scores latents, and not frames."""
    return bool(capability(reward, "input") == "latents")


def guidance_scale_at(backbone: Backbone, scale: float, timestep: float, steps: int) -> float:
    """The guidance scale of a step: that of the spec, 1 where it is off, or what the backbone makes of it.

    Args:
        backbone: of the run.
        scale: ``sampler.guidance_scale``.
        timestep: what the denoiser receives at that step.
        steps: of the sampler.
    """
    if scale <= 1 and not capability(backbone, "guides_below_1"):
        return 1.0
    return backbone.guidance_scale_at(scale, timestep, steps) if isinstance(backbone, VariesGuidance) else scale


@dataclass(frozen=True)
class RolloutContext:
    """What a method works with.

    Args:
        backbone: the generator.
        denoiser: its denoiser as accelerate has prepared it.
        sampler: built for the run's number of steps.
        video: the clips to be made.
        rewards: by key.
        objective: how scores combine.
        draw_window: gives the gradient window of a micro-step.
        choose_frames: gives the frames of a micro-step.
        guidance_scale: 1 is off.
        branches: guidance branches that carry gradient.
        recompute: of denoiser calls in backward, see :func:`vader.diffusion.rollout.rollout`.
        renoise: how many re-noised last steps are averaged in place of the window; None for the window.
        device: where latents are born.
        timer: measures phases.
        shortcuts: what rollouts leave out where no gradient is; None for nothing.
        gather: ``[of this process] -> [of every process, by rank]``, for small values; every process must call it.
        contrasts: by key, of the rewards that are scored relative to themselves.
        decode_plan: how scored frames are decoded.
        deterministic: the same sampler without noise; None where it adds none, or where its steps come in order.
        host: keeps what calls of the denoiser keep for backward; None for the device they run on.
        queries: counts the clips that are scored.
    """

    backbone: Backbone
    denoiser: nn.Module
    sampler: Sampler
    video: Video
    rewards: Mapping[str, Reward | LatentReward]
    objective: Objective
    draw_window: Draw
    choose_frames: Callable[[random.Random], list[int]]
    guidance_scale: float
    branches: Branches
    recompute: Recompute
    renoise: int | None
    device: torch.device
    timer: PhaseTimer = field(repr=False)
    shortcuts: Shortcuts | None = None
    gather: Callable[[list[Any]], list[Any]] = list
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    decode_plan: DecodePlan = field(default_factory=DecodePlan)
    deterministic: Sampler | None = None
    host: torch.device | None = None
    queries: QueryCounter = field(default_factory=QueryCounter, repr=False)

    def predict(self, latents: Latents, timestep: Tensor, branch: Branch) -> Tensor:
        """One call of the prepared denoiser."""
        with kept_on(self.host):
            return self.backbone.predict(self.denoiser, latents, timestep, branch)

    @cached_property
    def guidance_scales(self) -> list[float]:
        """The guidance scale of every step."""
        times, scale = self.sampler.timesteps.tolist(), self.guidance_scale
        return [guidance_scale_at(self.backbone, scale, time, len(times)) for time in times]

    @property
    def combine(self) -> Combine:
        """How two guidance branches make one prediction."""
        return self.backbone.combine if isinstance(self.backbone, CombinesGuidance) else classifier_free

    def noise(self, seeds: Sequence[int]) -> ClipNoise:
        """Noise of clips with these seeds."""
        return ClipNoise(seeds, self.backbone.latent_shape(self.video), self.device, torch.float32)

    def sample(
        self, conditioning: Conditioning, seeds: Sequence[int], window: Window, on_step: OnStep | None = None
    ) -> Latents:
        """Latents of ``b`` clips, ``(b ...)``, with gradient in the window.

        Before the window the adapter is merged into the weights where that changes no more than the rounding. Rollouts
        without a window, or with ``on_step``, are made as they are: what they record is what a call with gradient
        gives, and ``on_step`` may call the denoiser.
        """
        merging = on_step is None and 1 < window.start <= window.last
        with self.timer("rollout"), blame(f"backbone {_named(self.backbone)} or sampler {_named(self.sampler)}"):
            return rollout(
                self.predict,
                self.sampler,
                conditioning,
                self.noise(seeds),
                window,
                guidance_scale=self.guidance_scales,
                branches=self.branches,
                recompute=self.recompute,
                shortcuts=self.shortcuts,
                combine=self.combine,
                on_step=on_step,
                without_gradient=self._merged if merging else None,
            )

    @cached_property
    def _adapted(self) -> list[Any]:
        """The layers that carry the adapter."""
        return lora.layers_of(self.backbone.denoiser)

    def _merged(self) -> AbstractContextManager[None]:
        """The adapter as part of the weights, if it can be."""
        merged = lora.merged(self._adapted)
        return nullcontext() if merged is None else merged.used()

    def decode(self, latents: Latents, frames: Sequence[int] | None, plan: DecodePlan | None = None) -> Frames:
        """Pixels of the wanted frames, ``(b f 3 h w)`` in [0, 1].

        Args:
            latents: clean, ``(b ...)``.
            frames: indices; all when None.
            plan: for frames that are scored in training; None for those that are looked at.
        """
        with self.timer("decode"), blame(f"backbone {_named(self.backbone)}, decoding,"):
            if plan is None or frames is None or not isinstance(self.backbone, DecodesForReward):
                return self.backbone.decode(latents, frames)
            return self.backbone.decode_for_reward(latents, frames, plan)

    @cached_property
    def latent_rewards(self) -> dict[str, LatentReward]:
        """The rewards that see latents."""
        return {key: reward for key, reward in self.rewards.items() if sees_latents(reward)}

    @cached_property
    def frame_rewards(self) -> dict[str, Reward]:
        """The rewards that see frames; without any nothing need be decoded."""
        return {key: cast(Reward, reward) for key, reward in self.rewards.items() if not sees_latents(reward)}

    def timestep_after(self, step: int) -> Tensor:
        """The timestep, a scalar, of the latents that step ``step`` gives; 0 after the last one, -1 or N - 1."""
        times = self.sampler.timesteps
        return times[step + 1] if 0 <= step < len(times) - 1 else times.new_zeros(())

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Raw scores of :attr:`frame_rewards`, each ``(b,)``, and after them their parts, as ``REWARD/PART``, without
        gradient.

        Raises:
            ComponentError: a reward raised, gave no such scores, or changed the frames.
        """
        scores: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        self.queries.count(len(frames) if self.frame_rewards else 0)
        with self.timer("reward"):
            for key, reward in self.frame_rewards.items():
                contrast, ask = self.contrasts.get(key), partial(ask_reward, key, reward, frames)
                named = contrast.score(ask, prompts) if contrast else dict(ask(prompts))
                scores[key] = named.pop(SCORE)
                parts |= {f"{key}/{name}": part for name, part in named.items()}
        return scores | parts

    def score_latents(self, latents: Latents, timestep: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """Raw scores of :attr:`latent_rewards`, each ``(b,)``.

        Args:
            latents: ``(b ...)``.
            timestep: scalar, that of all of them (:meth:`timestep_after`).
            conditioning: of the ``b`` prompts.

        Raises:
            ComponentError: a reward raised, gave no such scores, or changed the latents.
        """
        at = timestep.to(latents.device).expand(len(latents))
        self.queries.count(0 if self.frame_rewards else len(latents))
        with self.timer("reward"):
            return {
                key: ask_latent_reward(key, reward, latents, at, conditioning)
                for key, reward in self.latent_rewards.items()
            }

    def judge(
        self,
        latents: Latents,
        timestep: Tensor,
        frames: Frames | None,
        prompts: Sequence[Prompt],
        conditioning: Conditioning,
    ) -> dict[str, Tensor]:
        """Raw scores of every reward, in their order, each ``(b,)``, and after them the parts of :meth:`score`.

        Args:
            latents: ``(b ...)``.
            timestep: scalar, theirs.
            frames: decoded from them; None when no reward sees frames.
            prompts: of the ``b`` clips.
            conditioning: of the same prompts.
        """
        found = self.score(frames, prompts) if frames is not None else {}
        if self.latent_rewards:
            found |= self.score_latents(latents, timestep, conditioning)
        return {key: found[key] for key in self.rewards} | found

    def sample_and_score(self, batch: Batch, window: Window, on_step: OnStep | None = None) -> ScoredClips:
        """Make and judge a batch's clips, with gradient in the window; frames are chosen by the batch's chance."""
        chosen = self.choose_frames(batch.rng)
        latents = self.sample(batch.conditioning, batch.seeds, window, on_step)
        return self.decode_and_score(latents, chosen, batch, -1 if window.original else window.last)

    def decode_and_score(self, latents: Latents, frames: Sequence[int], batch: Batch, step: int = -1) -> ScoredClips:
        """Decode the wanted frames of a batch's latents, if any reward sees frames, and judge them.

        Args:
            latents: ``(b ...)``.
            frames: indices from 0.
            batch: whose clips they are.
            step: that gave the latents; -1 for clean ones, the only ones that decode to a clip.
        """
        pixels = self.decode(latents, frames, self.decode_plan) if self.frame_rewards else None
        scores = self.judge(latents, self.timestep_after(step), pixels, batch.prompts, batch.conditioning)
        return ScoredClips(latents, scores, self.objective.reward(scores))

    def predict_at(self, conditioning: Conditioning, latents: Latents, i: int, *, recompute: Recompute) -> Tensor:
        """The guided prediction for latents ``(b ...)`` before step ``i``. The caller owns grad mode."""
        return predict_step(
            self.predict,
            self.sampler,
            conditioning,
            latents,
            i,
            guidance_scale=self.guidance_scales[i],
            branches=self.branches,
            recompute=recompute,
            combine=self.combine,
        )

    def guided_at(
        self, conditioning: Conditioning, latents: Latents, timestep: float, *, recompute: Recompute
    ) -> Tensor:
        """The guided prediction for latents ``(b ...)`` at any timestep of training; see :meth:`predict_at`."""
        scale = guidance_scale_at(self.backbone, self.guidance_scale, timestep, len(self.sampler.timesteps))
        at = torch.full((len(conditioning),), timestep, device=latents.device)
        return guided(self.predict, latents, at, conditioning, scale, self.branches, recompute, self.combine)

    @contextmanager
    def base(self) -> Iterator[None]:
        """The model without its adapter, and no gradient."""
        with torch.no_grad(), lora.switched_off(self.backbone.denoiser):
            yield

    def divergence(self, prediction: Tensor, conditioning: Conditioning, latents: Latents, i: int) -> Tensor:
        """How far a prediction of step ``i`` is from the base model's, ``(b,)``: half the mean squared difference.

        Up to a factor that the step alone decides, this is the Kullback-Leibler divergence, per latent element, of the
        distributions of the next latents under the two models, which are Gaussians of one variance (DPOK,
        arXiv 2305.16381, eq. 8).

        Args:
            prediction: ``(b ...)``, from :meth:`predict_at`.
            conditioning: see :meth:`predict_at`, like ``latents`` and ``i``.
        """
        with self.base():
            reference = self.predict_at(conditioning, latents, i, recompute=False)
        return (upcast(prediction) - upcast(reference)).square().flatten(1).mean(1) / 2
