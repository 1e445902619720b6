"""From a judged spec to live components: the only caller of component constructors. Weights are loaded here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from vader.errors import Problem, SpecError
from vader.protocols import DecodePlan, LatentReward, Reward, capabilities_of
from vader.resolve.components import ResolvedComponent
from vader.resolve.plan import Plan
from vader.spec import RolloutSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vader.diffusion.shortcuts import Shortcuts
    from vader.methods.context import RolloutContext
    from vader.methods.objective import Objective
    from vader.protocols import Backbone, Sampler, Video
    from vader.spec.rollout import FramesSpec


class FunctionReward:
    """A plain function ``f(frames, prompts) -> (b,)`` as a reward."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        for name in capabilities_of("reward"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def score(self, *seen: Any) -> Any:
        """See :class:`vader.protocols.Reward` and :class:`vader.protocols.LatentReward`."""
        return self._function(*seen)


def assemble_rewards(
    parts: Mapping[str, ResolvedComponent],
    device: torch.device,
    dtype: torch.dtype,
    video: Video | None = None,
    backbone: Backbone | None = None,
) -> dict[str, Reward | LatentReward]:
    """Construct rewards; those that are modules are moved, frozen and put in eval mode.

    Args:
        parts: by key.
        device: where they live.
        dtype: of their weights.
        video: the clips that they will see.
        backbone: whose latents they may see, before it has an adapter.
    """
    from torch import nn

    from vader.protocols import Runtime

    rewards: dict[str, Reward | LatentReward] = {}
    for key, part in parts.items():
        reward = part.build(runtime=Runtime(device, dtype), video=video, backbone=backbone)
        if isinstance(reward, nn.Module):
            reward.to(device).requires_grad_(False).eval()
        rewards[key] = reward if hasattr(reward, "score") else FunctionReward(reward)
    return rewards


def assemble_backbone(plan: Plan, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load the backbone's weights, and fuse the frozen adapters into them.

    Raises:
        WeightsError: weights or a frozen adapter cannot be loaded, or are of different models.
    """
    from vader.backbones.experts import edited
    from vader.protocols import Runtime
    from vader.resolve import adapter_source
    from vader.weights import lora

    backbone = cast("Backbone", plan.backbone.build(runtime=Runtime(device, dtype), video=plan.video))
    for path, scale, expert in plan.frozen_adapters:
        adapter = adapter_source.read_frozen(plan.backbone, path)
        with edited(backbone.denoiser, expert) as network:
            lora.fuse(network, adapter, scale, str(path))
    if plan.spec.train.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
    return backbone


def without_adapter(backbone: Backbone) -> str | None:
    """See :class:`vader.protocols.LimitsAdapters`."""
    from vader.protocols import LimitsAdapters

    return backbone.without_adapter() if isinstance(backbone, LimitsAdapters) else None


def assemble_sampler(plan: Plan, backbone: Backbone, device: torch.device, eta: float | None = None) -> Sampler:
    """Construct the sampler for the backbone's noise schedule.

    Args:
        plan: the judged spec.
        backbone: loaded.
        device: where the timesteps are wanted.
        eta: in place of the spec's.

    Raises:
        SpecError: the sampler cannot integrate what the loaded checkpoint predicts.
    """
    from vader.protocols import SamplerContext

    spec = plan.spec.sampler
    able, prediction = plan.sampler.capability("predictions"), backbone.schedule.prediction
    if prediction not in able:
        message = f"{plan.sampler.name!r} integrates {', '.join(able)}; the loaded checkpoint predicts {prediction}."
        raise SpecError([Problem("sampler.name", message)])
    noise = spec.eta if eta is None else eta
    context = SamplerContext(backbone.schedule, spec.steps, noise, plan.video, device)
    try:
        return cast("Sampler", plan.sampler.build(context=context))
    except ValueError as error:
        raise SpecError([Problem("sampler", str(error))]) from error


def decode_plan(spec: FramesSpec) -> DecodePlan:
    """How scored frames are decoded."""
    return DecodePlan(spec.decode_window, spec.decode_precision, spec.decode_tiles)


def assemble_context(
    plan: Plan,
    backbone: Backbone,
    denoiser: nn.Module,
    rewards: Mapping[str, Reward | LatentReward],
    device: torch.device,
    gather: Callable[[list[Any]], list[Any]] = list,
) -> RolloutContext:
    """Put live components together for a method. ``gather`` collects small values from every process."""
    import random

    import torch

    from vader.diffusion import frames
    from vader.diffusion.gradient import window
    from vader.methods.context import PhaseTimer, RolloutContext
    from vader.methods.contrast import Contrast

    spec = plan.spec
    contrasts = {
        reward.key: Contrast(**reward.contrast.model_dump()) for reward in spec.rewards if reward.contrast is not None
    }
    gradient, steps = spec.gradient, spec.sampler.steps
    twofold = spec.sampler.eta > 0 and plan.sampler.capability("any_order")
    by_block = spec.train.gradient_checkpointing and gradient.recompute == "auto"  # no block is to run three times

    def choose_frames(rng: random.Random) -> list[int]:
        return frames.choose(spec.frames.mode, plan.video.frames, rng, spec.frames.index)

    return RolloutContext(
        backbone=backbone,
        denoiser=denoiser,
        sampler=assemble_sampler(plan, backbone, device),
        video=plan.video,
        rewards=rewards,
        objective=_objective(plan),
        draw_window=window(
            gradient.mode,
            steps,
            k=gradient.k,
            from_step=gradient.from_step,
            original=gradient.original,
            detach_input=gradient.stop_gradient,
        ),
        choose_frames=choose_frames,
        guidance_scale=spec.sampler.guidance_scale,
        branches=gradient.branches,
        recompute=False if by_block else gradient.recompute,
        renoise=gradient.renoise,
        decode_plan=decode_plan(spec.frames),
        deterministic=assemble_sampler(plan, backbone, device, 0.0) if twofold else None,
        device=device,
        timer=PhaseTimer(device),
        shortcuts=_shortcuts(spec.rollout, backbone) if spec.rollout != RolloutSpec() else None,
        gather=gather,
        contrasts=contrasts,
        host=torch.device("cpu") if spec.train.offload_activations and device.type != "cpu" else None,
    )


def _objective(plan: Plan) -> Objective:
    """How the scores of a plan's rewards combine; those passed as objects have weight 1."""
    from vader.methods.objective import Objective, Term
    from vader.methods.scales import Scale

    named = {reward.key: reward for reward in plan.spec.rewards}
    terms = []
    for key in plan.rewards:
        spec = named.get(key)
        if spec is None:
            terms.append(Term(key))
            continue
        scale = Scale(moving=spec.normalize == "running") if spec.normalize != "none" else None
        terms.append(Term(key, spec.weight, spec.target, spec.threshold, scale))
    return Objective(terms)


def _shortcuts(spec: RolloutSpec, backbone: Backbone) -> Shortcuts:
    """What the section ``rollout`` asks for.

    Raises:
        SpecError: the loaded denoiser has no such cache.
    """
    from vader.backbones.block_cache import BlockCache
    from vader.diffusion.shortcuts import Shortcuts, no_cache

    reuse = spec.reuse.model_dump() if spec.reuse is not None else {}
    cache = BlockCache(backbone.denoiser, spec.cache.name, spec.cache.options) if spec.cache is not None else no_cache
    return Shortcuts(**reuse, coarse_steps=spec.coarse_steps, guidance_every=spec.guidance_every, cache=cache)
