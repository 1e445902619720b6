"""The training steps of two peers, in miniature, written from what they compute.

Both get the same weights, adapter, noise, conditioning, frame and reward as our step, and give the same loss. What is
theirs is how the rollout is done: one call for both guidance branches, diffusers' scheduler, which steps build a
graph, and layers as peft and diffusers have them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from benchmarks.peers.worlds import World
from torch import Tensor

Loop = Callable[[World], Tensor]


def with_stock_layers(loop: Loop) -> Loop:
    """The loop on layers as peft and diffusers have them, none in which ours are quicker."""

    @wraps(loop)
    def run(world: World) -> Tensor:
        networks = (world.live.backbone.denoiser, world.live.backbone.vae)  # type: ignore[attr-defined]
        lean = {m: type(m) for net in networks for m in net.modules() if type(m).__name__.startswith("Lean")}
        for module, kind in lean.items():
            module.__class__ = kind.__mro__[1]
        try:
            return loop(world)
        finally:
            for module, kind in lean.items():
                module.__class__ = kind

    return run


@with_stock_layers
def modelscope_reference(world: World) -> Tensor:
    """The loop of VADER's ModelScope folder: [unconditional, conditional] in one call, DDIM frame by frame, gradient in
    the last step alone (``backprop_mode`` last).

    Returns:
        The loss; its gradient is in the adapter.
    """
    from diffusers import DDIMScheduler

    live, context = world.live, world.live.context
    scheduler = DDIMScheduler.from_config(dict(live.backbone.schedule.config))
    scheduler.set_timesteps(len(context.sampler.timesteps))
    embeds, latents = _embeds(world), context.noise(world.batch.seeds).draw()
    for i, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(i == len(scheduler.timesteps) - 1):
            noise = live.denoiser(torch.cat([latents] * 2), timestep, encoder_hidden_states=embeds, return_dict=False)[
                0
            ]
            guided = _guided(noise, context.guidance_scale)
            frames, shape = [x.transpose(1, 2).flatten(0, 1) for x in (latents, guided)], latents.transpose(1, 2).shape
            moved = scheduler.step(frames[1], timestep, frames[0], return_dict=False)[0]
            latents = moved.unflatten(0, shape[:2]).transpose(1, 2)
    return _finished(world, latents)


@with_stock_layers
def wan_videox_fun(world: World) -> Tensor:
    """The loop of VideoX-Fun's reward training for Wan: [negative, positive] in one call, flow-match Euler, a graph on
    every step, cut before the last ``k``.

    Returns:
        The loss; its gradient is in the adapter.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    live, context = world.live, world.live.context
    scheduler = FlowMatchEulerDiscreteScheduler(shift=live.backbone.schedule.shift)
    scheduler.set_timesteps(len(context.sampler.timesteps))
    embeds, latents = _embeds(world), context.noise(world.batch.seeds).draw()
    for i, timestep in enumerate(scheduler.timesteps):
        doubled = torch.cat([latents] * 2)
        call: dict[str, Any] = {"timestep": timestep.expand(len(doubled)), "encoder_hidden_states": embeds}
        velocity = live.denoiser(hidden_states=doubled, **call, return_dict=False)[0]
        latents = scheduler.step(_guided(velocity, context.guidance_scale), timestep, latents, return_dict=False)[0]
        if i < len(scheduler.timesteps) - world.k:
            latents = latents.detach()
    return _finished(world, latents)


def _embeds(world: World) -> Tensor:
    conditioning = world.batch.conditioning
    assert conditioning.negative is not None
    return torch.cat([conditioning.negative["encoder_hidden_states"], conditioning.positive["encoder_hidden_states"]])


def _guided(prediction: Tensor, scale: float) -> Tensor:
    unconditional, conditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def _finished(world: World, latents: Tensor) -> Tensor:
    """Decoder, reward, backward, clipping and the optimizer's step; the frame is the one that our step decodes."""
    live, context = world.live, world.live.context
    frames = live.backbone.decode(latents, context.choose_frames(world.batch.rng))
    (reward,) = context.rewards.values()
    loss = -reward.score(frames, world.batch.prompts).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(live.parameters, 1.0)
    live.optimizer.step()
    value = loss.detach()
    float(value)  # what is logged
    return value
