"""Denoising diffusion policy optimization (DDPO, arXiv 2305.13301): a policy gradient over denoising steps."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.errors import Problem, SpecError
from vader.methods.advantages import PromptStatistics
from vader.methods.requirements import Finding, no_window, random_steps, whole_groups
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from vader.methods.context import RolloutContext
    from vader.methods.policy import Trajectory


class DDPOOptions(Options):
    """Options of :class:`DDPO`."""

    group_size: int = Field(1, ge=1, description="Clips of each prompt in a batch; it divides train.batch_size.")
    inner_epochs: int = Field(1, ge=1, description="Optimizer steps taken on the same clips.")
    train_steps: int | None = Field(
        None,
        ge=1,
        description="Denoising steps trained for each batch, drawn at random. Null: all with noise of min_std.",
    )
    min_std: float = Field(
        0.01,
        ge=0,
        description="Steps with noise below this standard deviation are not trained: it changes nothing to be seen, "
        "and gradients of log-probabilities grow with its inverse.",
    )
    clip_range: float = Field(
        1e-4, gt=0, description="The probability ratio, per latent element, is clipped to 1 +- this."
    )
    advantage_clip: float = Field(5.0, gt=0, description="Advantages are clipped to +- this.")
    buffer_size: int = Field(32, ge=2, description="Rewards remembered of each prompt.")
    min_count: int = Field(
        8, ge=2, description="Rewards of a prompt that make its own statistics; below, those of the round are used."
    )
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")


class DDPO:
    """Importance-sampled policy gradient with clipping (DDPO-IS, arXiv 2305.13301, section 4.3; PPO, arXiv 1707.06347).

    Rewards are seen as numbers only, so they need not be differentiable. The ratio of probabilities is taken per latent
    element, ``exp((log p - log p_old) / elements)``, as the authors' implementation does: over thousands of elements
    the ratio itself is 0 or infinite after one update.
    """

    Options = DDPOOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: DDPOOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: no step of the sampler has noise, or fewer than ``train_steps``.
        """
        from vader.methods.policy import noisy_steps

        self._options, self._context = options, context
        self._statistics = PromptStatistics(options.buffer_size, options.min_count)
        self._rounds: list[Trajectory] = []
        self._noisy = noisy_steps(context.sampler, options.min_std)
        self.group_size, self.inner_epochs = options.group_size, options.inner_epochs
        self.passes = options.train_steps or len(self._noisy)
        if not 1 <= self.passes <= len(self._noisy):
            expected = (
                f"the sampler adds noise of min_std = {options.min_std:g} or more in {len(self._noisy)} of its "
                f"{len(context.sampler.timesteps)} steps"
            )
            raise SpecError(
                [Problem("method.options.train_steps", f"{self.passes} steps cannot be trained: {expected}.")]
            )

    @classmethod
    def validate(cls, options: DDPOOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.Method`."""
        yield from no_window("ddpo", spec)
        yield from random_steps("ddpo", spec, sampler)
        yield from whole_groups("ddpo", spec, options.group_size)
        if (options.train_steps or 1) > spec.sampler.steps:
            message = f"{options.train_steps} is more than sampler.steps = {spec.sampler.steps}."
            yield "method.options.train_steps", message

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.policy import step_loss

        context, options = self._context, self._options
        if update == 0:
            self._rounds = self._collect(batches)
        for batch, made in zip(batches, self._rounds, strict=True):
            for i in self._drawn(batch.rng):
                yield step_loss(context, batch, made, i, "ddpo", options.clip_range, options.kl_weight, self.passes)

    def _drawn(self, rng: random.Random) -> list[int]:
        return sorted(rng.sample(self._noisy, self.passes))

    def _collect(self, batches: Sequence[Batch]) -> list[Trajectory]:
        """Make and judge every clip of the round, then compare rewards over all processes."""
        from vader.methods.policy import sampled

        made = [sampled(self._context, batch, self._noisy) for batch in batches]
        prompts = [[prompt.text for prompt in batch.prompts] for batch in batches]
        rewards: list[list[float]] = [one.reward.tolist() for one in made]
        mine = [
            pair for texts, values in zip(prompts, rewards, strict=True) for pair in zip(texts, values, strict=True)
        ]
        everyone: list[tuple[str, float]] = self._context.gather(mine)
        whole_round = [reward for _, reward in everyone]
        self._statistics.remember([prompt for prompt, _ in everyone], whole_round)
        limit = self._options.advantage_clip
        return [
            one.judged(self._statistics.advantages(texts, values, whole_round), limit)
            for texts, values, one in zip(prompts, rewards, made, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        rounds = stored(self._rounds) if self.inner_epochs > 1 else []
        return {"statistics": self._statistics.state_dict(), "rounds": rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.policy import Trajectory

        self._statistics.load_state_dict(state["statistics"])
        self._rounds = restored(Trajectory, state["rounds"], self._context.device)
