"""MixGRPO: a policy gradient over a window of noisy steps that moves (arXiv 2507.21802); with windows of one or two
steps drawn at random, Flow-GRPO-Fast (Flow-GRPO, arXiv 2505.05470)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader.errors import Problem, SpecError
from vader.methods.advantages import group_advantages
from vader.methods.requirements import Finding, no_window, random_steps, whole_rounds
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from vader.methods.context import RolloutContext
    from vader.methods.policy import Trajectory


class MixGRPOOptions(Options):
    """Options of :class:`MixGRPO`."""

    group_size: int = Field(12, ge=2, description="Clips of each prompt; it divides the clips of an optimizer step.")
    window: int = Field(4, ge=1, description="Steps with noise, one after the other; 1 or 2 for Flow-GRPO-Fast.")
    moves: Literal["progressive", "random"] = Field(
        "progressive", description="The window goes from the noise end to the clean end; or is drawn for each batch."
    )
    every: int = Field(25, ge=1, description="Rounds of clips after which a progressive window moves.")
    stride: int = Field(1, ge=1, description="Steps by which it moves; past the end it begins anew.")
    min_std: float = Field(0.01, ge=0, description="Steps with noise below this standard deviation are in no window.")
    clip_range: float = Field(
        1e-4, gt=0, description="The probability ratio, per latent element, is clipped to 1 +- this."
    )
    advantage_clip: float = Field(5.0, gt=0, description="Advantages are clipped to +- this.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")
    reuse: int = Field(1, ge=1, description="Optimizer steps taken on the same clips; the ratio corrects for them.")


class MixGRPO:
    """Makes clips with noise in a window of steps alone, and trains those steps by how a clip compares with others of
    its prompt (GRPO). Rewards are seen as numbers. Outside the window steps are deterministic, which costs no
    log-probabilities and no backward pass.

    Noise is that of the sampler at ``sampler.eta``, which keeps the flow's marginals; the authors' Euler-Maruyama steps
    do so in the limit of many steps only. The ratio is :func:`vader.methods.policy.step_loss`'s.
    """

    Options = MixGRPOOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: MixGRPOOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: the sampler has too few steps with noise.
        """
        from vader.methods.policy import noisy_steps

        self._options, self._context, self._round = options, context, 0
        self.group_size, self.inner_epochs, self.passes = options.group_size, options.reuse, options.window
        self._rounds: list[Trajectory] = []
        self._noisy = noisy_steps(context.sampler, options.min_std)
        if len(self._noisy) < options.window:
            message = (
                f"a window of {options.window} steps has no place: the sampler adds noise of min_std = "
                f"{options.min_std:g} or more in {len(self._noisy)} of its {len(context.sampler.timesteps)} steps."
            )
            raise SpecError([Problem("method.options.window", message)])

    @classmethod
    def validate(cls, options: MixGRPOOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("mixgrpo", spec)
        yield from random_steps("mixgrpo", spec, sampler)
        yield from whole_rounds("mixgrpo", spec, options.group_size)
        if options.window > spec.sampler.steps:
            message = f"{options.window} is more than sampler.steps = {spec.sampler.steps}."
            yield "method.options.window", message

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.policy import step_loss

        options = self._options
        if update == 0:
            self._rounds = self._collect(batches)
            self._round += 1
        for batch, made in zip(batches, self._rounds, strict=True):
            context = self._within(made.steps)
            for i in made.steps:
                found = step_loss(
                    context, batch, made, i, "mixgrpo", options.clip_range, options.kl_weight, self.passes
                )
                yield replace(found, metrics={**found.metrics, "mixgrpo/window": float(made.steps[0])})

    def _collect(self, batches: Sequence[Batch]) -> list[Trajectory]:
        """Make and judge every clip of the round, then compare rewards over all processes."""
        from vader.methods.policy import sampled

        made = []
        for batch in batches:
            window = self._window(batch)
            made.append(sampled(self._within(window), batch, window))
        prompts = [[prompt.text for prompt in batch.prompts] for batch in batches]
        found = group_advantages(prompts, [one.reward.tolist() for one in made], self._context.gather, "prompt")
        return [one.judged(values, self._options.advantage_clip) for one, values in zip(made, found, strict=True)]

    def _window(self, batch: Batch) -> list[int]:
        """The steps with noise of a batch's clips."""
        places = len(self._noisy) - self._options.window + 1
        if self._options.moves == "random":
            first = batch.rng.randrange(places)
        else:
            moved = self._round // self._options.every % -(-places // self._options.stride)
            first = moved * self._options.stride
        return self._noisy[first : first + self._options.window]

    def _within(self, window: Sequence[int]) -> RolloutContext:
        """The context with noise in these steps alone."""
        from vader.diffusion.samplers.partly_noisy import PartlyNoisy

        context = self._context
        assert context.deterministic is not None
        return replace(context, sampler=PartlyNoisy(context.sampler, context.deterministic, window))

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {"round": self._round, "rounds": stored(self._rounds) if self.inner_epochs > 1 else []}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.policy import Trajectory

        self._round = state["round"]
        self._rounds = restored(Trajectory, state["rounds"], self._context.device)
