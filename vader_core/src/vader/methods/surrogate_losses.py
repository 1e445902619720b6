"""From surrogates of a rollout to its loss: what methods ``flowbp`` and ``leapalign`` share."""

from __future__ import annotations

import torch

from vader.diffusion.flow import join, scale_gradient
from vader.diffusion.gradient import no_gradient
from vader.methods.context import RolloutContext
from vader.methods.replay import Replay
from vader.methods.surrogates import DrawSurrogate
from vader.protocols import Batch, Loss


def surrogate_loss(context: RolloutContext, levels: list[float], batch: Batch, draw: DrawSurrogate, reuse: int) -> Loss:
    """Minus the reward of a batch's clips, with the gradient of surrogates of its one rollout.

    Clips are made without gradient and judged once; their value is the true one whatever the surrogates are. Of several
    surrogates the mean is taken, each clip's by its weight.

    Args:
        context: makes and judges clips.
        levels: noise levels of its sampler.
        batch: whose clips are made.
        draw: gives a surrogate.
        reuse: how many of them.
    """
    frames = context.choose_frames(batch.rng)
    surrogates = [draw(batch.rng) for _ in range(reuse)]
    replay = Replay(
        context,
        batch.conditioning,
        levels,
        latents={i for one in surrogates for i in one.latents},
        velocities={i for one in surrogates for i in one.velocities},
        calls=sum(one.calls for one in surrogates),
    )
    true = context.sample(batch.conditioning, batch.seeds, no_gradient(replay.steps), replay.keep).detach()
    with context.timer("rollout"):
        built = [one.build(replay) for one in surrogates]
    weights = torch.stack([weight for _, weight, _ in built])
    mean = weights.mean(0)
    shares = (weights / (mean * reuse)).reshape(reuse, -1, *[1] * (true.ndim - 1))
    surrogate = torch.stack([scale_gradient(end, share) for (end, _, _), share in zip(built, shares, strict=True)])
    made = context.decode_and_score(join(surrogate.sum(0), true), frames, batch)
    metrics = {key: torch.stack([said[key] for *_, said in built]).mean() for key in built[0][2]}
    return Loss(-(mean * made.reward).mean(), made.detached_scores(), made.reward.detach(), metrics)
