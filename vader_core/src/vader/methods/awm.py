"""Advantage weighted matching (AWM, arXiv 2509.25050): the pretraining loss, weighted by how good a clip is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader.methods.requirements import Finding, no_window, whole_rounds
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.methods.forward_process import JudgedClips, NoisedClips

Weighting = Literal["uniform", "t", "t2", "huber", "ghuber"]
_SMALL = 1e-10


class AWMOptions(Options):
    """Options of :class:`AWM`."""

    group_size: int = Field(24, ge=2, description="Clips of each prompt; it divides the clips of an optimizer step.")
    weighting: Weighting = Field(
        "ghuber", description="How the matching error counts: as it is, by the noise level t or its square, or damped."
    )
    ghuber_power: float = Field(0.25, gt=0, le=1, description="Power of the weighting ghuber.")
    advantage_clip: float = Field(1.0, gt=0, description="Advantages are clipped to +- this.")
    clip_range: float = Field(1.0, gt=0, description="The ratio to the old policy is clipped to 1 +- this.")
    draws: int = Field(6, ge=1, description="Timesteps and noises drawn for each clip and optimizer step.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")
    reuse: int = Field(1, ge=1, description="Optimizer steps taken on the same clips.")


class AWM:
    """Makes clips, and lets each count in the denoising loss by its advantage: good ones are matched, bad ones are
    unlearnt. Rewards are seen as numbers; any sampler and any number of steps will do.

    With ``l = -weight(error)`` the loss is PPO's clipped surrogate of the ratio ``exp(l - l_old)``: on the first
    optimizer step its gradient is that of the weighted denoising loss (arXiv 2509.25050, eq. 12), on later ones
    (``reuse``) the ratio corrects for the policy that made the clips. Only the conditional branch is trained.
    """

    Options = AWMOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: AWMOptions, context: RolloutContext) -> None:
        from vader.weights.lora.snapshot import Snapshot

        self._options, self._context = options, context
        self.group_size, self.inner_epochs, self.passes = options.group_size, options.reuse, options.draws
        trained = [parameter for parameter in context.backbone.denoiser.parameters() if parameter.requires_grad]
        self._old = Snapshot(trained) if options.reuse > 1 else None
        self._rounds: list[JudgedClips] = []

    @classmethod
    def validate(cls, options: AWMOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("awm", spec)
        yield from whole_rounds("awm", spec, options.group_size)

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.forward_process import drawn_clips, judged_clips

        if update == 0:
            self._rounds = judged_clips(self._context, batches, "round", self._options.advantage_clip)
            if self._old is not None:
                self._old.follow(0.0)
        for batch, clips in zip(batches, self._rounds, strict=True):
            for draw in range(self.passes):
                noised = drawn_clips(self._context, batch, clips.latents, "awm", update, draw)
                yield self._loss(batch, clips, noised, on_policy=update == 0)

    def _loss(self, batch: Batch, clips: JudgedClips, noised: NoisedClips, *, on_policy: bool) -> Loss:
        """The clipped surrogate of one timestep and noise for every clip."""
        import torch

        from vader.methods.forward_process import base_divergence
        from vader.methods.policy import clipped_surrogate, ratio_metrics

        context, branch = self._context, batch.conditioning.positive
        with context.timer("loss"):
            if not on_policy:  # before there is a graph: the parameters change places
                assert self._old is not None
                with torch.no_grad(), self._old.swapped_in():
                    old = self._likelihood(context.predict(noised.latents, noised.timestep, branch), noised)
            prediction = context.predict(noised.latents, noised.timestep, branch)
            found = self._likelihood(prediction, noised)
            ratio = (found - (found.detach() if on_policy else old)).exp()
            value = clipped_surrogate(clips.advantages, ratio, self._options.clip_range).mean()
            metrics = ratio_metrics("awm", ratio, self._options.clip_range)
            if self._options.kl_weight:
                divergence = base_divergence(context, prediction, noised, branch)
                value = value + self._options.kl_weight * divergence
                metrics["kl"] = divergence.detach()
        return Loss(value / self.passes, clips.scores, clips.reward, metrics)

    def _likelihood(self, prediction: Tensor, noised: NoisedClips) -> Tensor:
        """Minus the weighted matching error, ``(b,)``: what takes the place of a log-likelihood."""
        error = noised.error(prediction)
        level = self._context.backbone.schedule.levels(noised.timestep)[1].to(error)
        return -weighted(error, level, self._options.weighting, self._options.ghuber_power)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        if self._old is None:
            return {}
        return {"old": self._old.state_dict(), "rounds": stored(self._rounds)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.forward_process import JudgedClips

        if self._old is not None:
            self._old.load_state_dict(state["old"])
            self._rounds = restored(JudgedClips, state["rounds"], self._context.device)


def weighted(error: Tensor, level: Tensor, weighting: Weighting, power: float) -> Tensor:
    """How a matching error counts, ``(b,)`` (as in the authors' implementation).

    Args:
        error: mean squared, ``(b,)``.
        level: noise level t, ``(b,)``.
        weighting: uniform ``e``; t ``t e``; t2 ``t^2 e``; huber ``t sqrt(e)``; ghuber ``t e^p / p``, both from a small
            number on.
        power: p of ghuber.
    """
    if weighting == "uniform":
        return error
    if weighting == "t":
        return level * error
    if weighting == "t2":
        return level.square() * error
    exponent = 0.5 if weighting == "huber" else power
    damped: Tensor = (error + _SMALL) ** exponent - _SMALL**exponent
    return level * damped if weighting == "huber" else level * damped / power
