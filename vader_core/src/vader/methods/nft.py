"""Diffusion negative-aware finetuning (DiffusionNFT, arXiv 2509.16117): rewards through the forward process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.methods.requirements import Finding, no_window, whole_rounds
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext
    from vader.methods.forward_process import JudgedClips, NoisedClips


class NFTOptions(Options):
    """Options of :class:`NFT`."""

    group_size: int = Field(24, ge=2, description="Clips of each prompt; it divides the clips of an optimizer step.")
    beta: float = Field(1.0, gt=0, description="How far the two implicit policies are from the old one; 0.1 to 1.")
    advantage_clip: float = Field(5.0, gt=0, description="Advantages are clipped to +- this, and scaled by it.")
    draws: int = Field(1, ge=1, description="Timesteps and noises drawn for each clip and optimizer step.")
    decay_rate: float = Field(
        0.001, ge=0, description="The old policy keeps this times the number of the round of itself. 0: on policy."
    )
    decay_max: float = Field(0.5, ge=0, lt=1, description="The most that the old policy keeps of itself.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of the divergence from the base model; 0 is off.")
    reuse: int = Field(1, ge=1, description="Optimizer steps taken on the same clips.")


class NFT:
    """Makes clips by an old policy, and raises the likelihood of the good ones against that of the bad ones, where
    clips are noised as in training. Rewards are seen as numbers; any sampler and any number of steps will do.

    With the old policy's prediction o, the present one p and ``r = 1/2 + advantage / (2 clip)``, the implicit policies
    are ``beta p + (1 - beta) o``, weighted by r, and ``(1 + beta) o - beta p``, weighted by 1 - r (arXiv 2509.16117,
    eq. 5 and 8). The loss of each is the squared error of the clean latents it predicts, over their mean absolute error
    (section 3.3); the sum counts ``clip / beta`` times. The old policy corrects for clips that are used again; it
    follows the present one round by round. Only the conditional branch is trained.
    """

    Options = NFTOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: NFTOptions, context: RolloutContext) -> None:
        from vader.weights.lora.snapshot import Snapshot

        self._options, self._context = options, context
        self.group_size, self.inner_epochs, self.passes = options.group_size, options.reuse, options.draws
        trained = [parameter for parameter in context.backbone.denoiser.parameters() if parameter.requires_grad]
        self._old = Snapshot(trained)
        self._rounds: list[JudgedClips] = []
        self._round = 0

    @classmethod
    def validate(cls, options: NFTOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.ValidatesSpec`."""
        yield from no_window("nft", spec)
        yield from whole_rounds("nft", spec, options.group_size)

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.forward_process import drawn_clips, judged_clips

        context, options, on_policy = self._context, self._options, False
        if update == 0:
            decay = min(options.decay_rate * self._round, options.decay_max)
            self._old.follow(decay)
            self._round += 1
            with self._old.swapped_in():
                self._rounds = judged_clips(context, batches, "round", options.advantage_clip)
            on_policy = decay == 0
        for batch, clips in zip(batches, self._rounds, strict=True):
            for draw in range(self.passes):
                noised = drawn_clips(context, batch, clips.latents, "nft", update, draw)
                yield self._loss(batch, clips, noised, on_policy=on_policy)

    def _loss(self, batch: Batch, clips: JudgedClips, noised: NoisedClips, *, on_policy: bool) -> Loss:
        """The loss of one timestep and noise for every clip."""
        import torch

        from vader.diffusion.precision import upcast
        from vader.methods.forward_process import base_divergence

        context, branch, beta = self._context, batch.conditioning.positive, self._options.beta
        limit = self._options.advantage_clip
        share = 0.5 + clips.advantages / (2 * limit)
        with context.timer("loss"):
            if not on_policy:  # before there is a graph: the parameters change places
                with torch.no_grad(), self._old.swapped_in():
                    old = upcast(context.predict(noised.latents, noised.timestep, branch))
            prediction = upcast(context.predict(noised.latents, noised.timestep, branch))
            old = prediction.detach() if on_policy else old
            good = self._error(beta * prediction + (1 - beta) * old, noised)
            bad = self._error((1 + beta) * old - beta * prediction, noised)
            value = (share * good + (1 - share) * bad).mean() * limit / beta
            metrics = {"nft/drift": (prediction.detach() - old).square().mean()}
            if self._options.kl_weight:
                divergence = base_divergence(context, prediction, noised, branch)
                value = value + self._options.kl_weight * divergence
                metrics["kl"] = divergence.detach()
        return Loss(value / self.passes, clips.scores, clips.reward, metrics)

    def _error(self, prediction: Tensor, noised: NoisedClips) -> Tensor:
        """Squared error of the clean latents that a prediction means, over their mean absolute error, ``(b,)``."""
        from vader.diffusion.noising import predicted_clean

        schedule = self._context.backbone.schedule
        apart = (predicted_clean(schedule, prediction, noised.latents, noised.timestep) - noised.clean).flatten(1)
        return apart.square().mean(1) / apart.detach().abs().mean(1).clamp(min=1e-5)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        rounds = stored(self._rounds) if self.inner_epochs > 1 else []
        return {"old": self._old.state_dict(), "round": self._round, "rounds": rounds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        from vader.methods.forward_process import JudgedClips

        self._old.load_state_dict(state["old"])
        self._round = state["round"]
        self._rounds = restored(JudgedClips, state["rounds"], self._context.device)
