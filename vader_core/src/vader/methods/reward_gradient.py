"""The reward gradient itself (VADER, arXiv 2407.08737, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from vader.protocols import Batch, Loss
from vader.spec import Options

if TYPE_CHECKING:
    from vader.methods.scene import Scene


class RewardGradientOptions(Options):
    """No options: window, frames and objective are fields of the run spec."""


class RewardGradient:
    """Minus the reward of the clips, differentiable through reward, decoder and the gradient window."""

    Options = RewardGradientOptions
    needs_gradient: ClassVar[bool] = True
    passes = 1

    def __init__(self, options: RewardGradientOptions, scene: Scene) -> None:
        self._scene = scene

    def losses(self, batch: Batch) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        scene = self._scene
        window = scene.draw_window(batch.rng)
        chosen = scene.choose_frames(batch.rng)
        latents = scene.roll(batch.conditioning, batch.seeds, window)
        scores = scene.judge(scene.decode(latents, chosen), batch.prompts)
        reward = scene.objective.reward(scores)
        detached = {key: score.detach() for key, score in scores.items()}
        metrics = {"gradient/k": float(window.last + 1 - window.start)}
        yield Loss(scene.objective.loss(scores), detached, reward.detach(), metrics)
