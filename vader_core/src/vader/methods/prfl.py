"""Process reward feedback learning: a reward in latent space, one step with gradient (PRFL, arXiv 2511.21541)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.methods.requirements import Finding, no_window
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext


class PRFLOptions(Options):
    """Options of :class:`PRFL`."""

    weight: float = Field(0.1, gt=0, description="Factor of the loss.")
    threshold: float | None = Field(
        2.0, description="Reward above which nothing more is gained (relu(threshold - reward)). Null: maximise."
    )
    clips: str | None = Field(None, min_length=1, description="Folder of real clips (clips.jsonl) to stay near to.")
    clips_weight: float = Field(1.0, gt=0, description="Factor of the denoising loss on those clips.")


class PRFL:
    """Rolls without gradient to a random step, takes it with gradient, and scores the latents after it.

    The loss is ``weight * relu(threshold - reward)``; rewards see latents at the timestep they have there, and nothing
    is decoded. With ``clips`` each pass adds ``clips_weight`` times the denoising loss of as many real clips, each at
    a random timestep of training (the supervised step of the paper).
    """

    Options = PRFLOptions
    needs_gradient: ClassVar[bool] = True
    needs_latents: ClassVar[bool] = True
    group_size = 1
    inner_epochs = 1
    passes = 1

    def __init__(self, options: PRFLOptions, context: RolloutContext) -> None:
        """
        Raises:
            SpecError: the clips cannot be read.
        """
        from vader.methods.real_clips import RealClips

        self._options, self._context = options, context
        self._clips = RealClips.encoded(options.clips, context) if options.clips is not None else None

    @classmethod
    def validate(cls, options: PRFLOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("prfl", spec)

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.diffusion.gradient import Window

        for batch in batches:
            step = batch.rng.randrange(len(self._context.sampler.timesteps))
            made = self._context.sample_and_score(batch, Window(step, step + 1))
            metrics = {"prfl/step": float(step)}
            value = self._options.weight * self._missing(made.reward).mean()
            if self._clips is not None:
                supervised = self._clips.loss(self._context, batch.seeds)
                value = value + self._options.clips_weight * supervised
                metrics["prfl/clips"] = float(supervised.detach())
            yield Loss(value, made.detached_scores(), made.reward.detach(), metrics)

    def _missing(self, reward: Tensor) -> Tensor:
        """What the loss makes small, ``(b,)``."""
        threshold = self._options.threshold
        return -reward if threshold is None else (threshold - reward).relu()

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
