"""Semantic relative preference optimization (SRPO, arXiv 2509.06942): one step from a clip noised with a known noise
(Direct-Align), judged for one phrase against another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader.errors import Problem, SpecError
from vader.methods.contrast import Contrast
from vader.methods.requirements import Finding, no_window
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.shapes import Latents

_CLEANEST = 0.001
"""The lowest noise level that a step begins at."""


class SRPOOptions(Options):
    """Options of :class:`SRPO`. Pairs of k are for the clean end and for the noise end, and linear between."""

    direction: Literal["both", "denoising", "inversion"] = Field(
        "both", description="Towards less noise, which rewards; towards more, which punishes; or each in turn."
    )
    step: float = Field(0.1, gt=0, lt=1, description="Length of the step in noise levels, shorter at both ends.")
    levels: tuple[float, float] = Field(
        (0.005, 0.995), description="Noise levels between which the end of the step is drawn, evenly."
    )
    k: tuple[float, float] = Field(
        (0.1, 0.25), description="How much more the positive phrase counts, in the denoising direction."
    )
    k_inversion: tuple[float, float] = Field(
        (0.3, 0.01), description="How much more the negative phrase counts, in the inversion direction."
    )
    threshold: float | None = Field(
        0.7, description="Reward above which nothing more is gained (relu(threshold - reward)). Null: maximise."
    )
    reuse: int = Field(1, ge=1, description="Noise levels drawn for each rollout; each is judged in every direction.")


class SRPO:
    """Makes clips without gradient, noises them with the noise they began as, takes one step with gradient, and
    recovers the clips from what that gives, by the known noise.

    With clean latents x, noise e and a velocity v predicted at level a, ``x_a = a e + (1 - a) x``, a step to b gives
    ``y = x_a + (b - a) v``, and ``(y - b e) / (1 - b)`` is x where ``v = e - x``, at any level. Denoising (b < a) is
    scored by ``(1 + k) r(positive) - r(negative)``, the phrases those of each reward's ``contrast``; inversion (b > a)
    with the two exchanged, so that it lowers what denoising raises. The authors' runs collapse without inversion.

    Logs show scores in the sense of denoising.
    """

    Options = SRPOOptions
    needs_gradient: ClassVar[bool] = True
    needs_flow: ClassVar[bool] = True
    group_size = 1
    inner_epochs = 1

    def __init__(self, options: SRPOOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: the backbone predicts no flow, or a reward has no contrast.
        """
        self._options, self._context = options, context
        self._directions = ("denoising", "inversion") if options.direction == "both" else (options.direction,)
        self.passes = options.reuse * len(self._directions)
        problems = []
        predicted = context.backbone.schedule.prediction
        if predicted != "flow":
            message = f"srpo needs a backbone that predicts flow; this one predicts {predicted}."
            problems.append(Problem("method.name", message))
        bare = [key for key in context.rewards if key not in context.contrasts]
        if bare:
            problems.append(Problem("rewards", f"srpo needs a contrast for {', '.join(bare)}."))
        if problems:
            raise SpecError(problems)

    @classmethod
    def validate(cls, options: SRPOOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("srpo", spec, recomputes=True)
        if not 0 < options.levels[0] <= options.levels[1] < 1:
            yield "method.options.levels", f"expected two numbers in order between 0 and 1, found {options.levels}."
        for index, reward in enumerate(spec.rewards):
            path = f"rewards.{index}.contrast"
            if reward.contrast is None:
                message = f"method srpo scores {reward.key!r} for one phrase against another. Add contrast: "
                yield path, message + "{positive: ..., negative: ...}, to a reward that reads the prompt."
            elif reward.contrast.k:
                yield f"{path}.k", "method srpo has k among its own options, by the noise level. Remove it."

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.diffusion.gradient import no_gradient

        context = self._context
        for batch in batches:
            frames = context.choose_frames(batch.rng)
            steps = no_gradient(len(context.sampler.timesteps))
            clean = context.sample(batch.conditioning, batch.seeds, steps).detach()
            noise = context.noise(batch.seeds).draw()
            for _ in range(self._options.reuse):
                level = batch.rng.uniform(*self._options.levels)
                for direction in self._directions:
                    yield self._loss(batch, clean, noise, frames, level, direction)

    def _loss(
        self, batch: Batch, clean: Latents, noise: Tensor, frames: Sequence[int], end: float, direction: str
    ) -> Loss:
        """The loss of one step that ends at noise level ``end``."""
        from vader.diffusion.precision import upcast

        context, length = self._context, min(self._options.step, end, 1 - end)
        start = end + length if direction == "denoising" else max(end - length, _CLEANEST)
        noised = start * noise + (1 - start) * clean
        with context.timer("rollout"):
            timestep = start * context.backbone.schedule.train_timesteps
            recompute = context.recompute is True
            velocity = context.guided_at(batch.conditioning, noised, timestep, recompute=recompute)
            recovered = (noised + (end - start) * upcast(velocity) - end * noise) / (1 - end)
        made = self._judging(direction, start, end).decode_and_score(recovered, frames, batch)
        threshold, sense = self._options.threshold, 1.0 if direction == "denoising" else -1.0
        missing = -made.reward if threshold is None else (threshold - made.reward).relu()
        scores = {key: sense * score for key, score in made.detached_scores().items()}
        apart = (recovered.detach() - clean).abs().mean()
        metrics: dict[str, float | Tensor] = {"srpo/level": end, "srpo/recovery": apart}
        return Loss(missing.mean() / self.passes, scores, sense * made.reward.detach(), metrics)

    def _judging(self, direction: str, start: float, end: float) -> RolloutContext:
        """The context with the contrasts of a direction."""
        options, contrasts = self._options, self._context.contrasts
        if direction == "denoising":
            k = _between(options.k, end)
            found = {key: Contrast(one.positive, one.negative, k) for key, one in contrasts.items()}
        else:
            k = _between(options.k_inversion, start)
            found = {key: Contrast(one.negative, one.positive, k) for key, one in contrasts.items()}
        return replace(self._context, contrasts=found)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""


def _between(ends: tuple[float, float], level: float) -> float:
    """Linear in the noise level, from its value at 0 to that at 1."""
    return ends[0] + (ends[1] - ends[0]) * level
