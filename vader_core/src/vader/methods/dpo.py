"""Direct preference optimization on the model's own clips (Diffusion-DPO, arXiv 2311.12908)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader.diffusion.seeding import derive
from vader.methods.requirements import Finding, no_window, whole_groups
from vader.methods.rounds import restored, stored
from vader.protocols import Batch, Loss
from vader.spec import Options, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    from vader.methods.context import RolloutContext


class DPOOptions(Options):
    """Options of :class:`DPO`."""

    beta: float = Field(2000.0, gt=0, description="How strongly the base model holds; higher keeps nearer to it.")
    group_size: int = Field(
        2, ge=2, description="Clips of each prompt; the best and the worst are a pair. It divides train.batch_size."
    )
    inner_epochs: int = Field(1, ge=1, description="Optimizer steps taken on the same clips.")
    draws: int = Field(1, ge=1, description="Timesteps and noises drawn for each pair and optimizer step.")


@dataclass(frozen=True)
class _Pairs:
    """Clips of one batch and which of them were preferred.

    Args:
        latents: ``(b c f h w)``, clean.
        winners: ``(pairs,)``, rows of the preferred clips.
        losers: ``(pairs,)``, rows of the others.
        decided: ``(pairs,)``, 1 where the two rewards differ, else 0.
        scores: raw, by reward.
        reward: ``(b,)``.
    """

    latents: Tensor
    winners: Tensor
    losers: Tensor
    decided: Tensor
    scores: dict[str, Tensor]
    reward: Tensor


class DPO:
    """Makes clips, lets the reward rank those of a prompt, and raises the preferred clip's likelihood over the other's.

    The loss is ``-log sigmoid(-beta / 2 ((e_w - e_w_base) - (e_l - e_l_base)))``, where ``e`` is the mean squared error
    of the prediction for a noised clip and ``base`` is the model without its adapter (arXiv 2311.12908, eq. 14, with
    constant weight, ``beta`` scaled as in the authors' implementation). Both clips of a pair get the same timestep and
    noise. Only the conditional branch is trained.
    """

    Options = DPOOptions
    needs_gradient: ClassVar[bool] = False

    def __init__(self, options: DPOOptions, context: RolloutContext) -> None:
        self._options, self._context = options, context
        self._rounds: list[_Pairs] = []
        self.group_size, self.inner_epochs, self.passes = options.group_size, options.inner_epochs, options.draws

    @classmethod
    def validate(cls, options: DPOOptions, spec: RunSpec, sampler: Any) -> Iterable[Finding]:
        """See :class:`vader.protocols.Method`."""
        yield from no_window("dpo", spec)
        yield from whole_groups("dpo", spec, options.group_size)

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """See :class:`vader.protocols.Method`."""
        import torch

        if update == 0:
            with torch.no_grad():
                self._rounds = [self._collect(batch) for batch in batches]
        for batch, pairs in zip(batches, self._rounds, strict=True):
            for draw in range(self.passes):
                yield self._loss(batch, pairs, f"{update}/{draw}")

    def _collect(self, batch: Batch) -> _Pairs:
        """Make and judge a batch's clips; in every group of one prompt the best and the worst are a pair."""
        import torch

        from vader.diffusion.gradient import no_gradient

        made = self._context.sample_and_score(batch, no_gradient(len(self._context.sampler.timesteps)))
        groups = made.reward.reshape(-1, self.group_size)
        first = torch.arange(len(groups), device=groups.device) * self.group_size
        best, worst = groups.max(1), groups.min(1)
        decided = (best.values > worst.values).to(groups.dtype)
        return _Pairs(
            made.latents, first + best.indices, first + worst.indices, decided, dict(made.scores), made.reward
        )

    def _loss(self, batch: Batch, pairs: _Pairs, draw: str) -> Loss:
        """The loss of one timestep and noise for every pair."""
        from torch.nn import functional

        from vader.methods.forward_process import noised_clips

        context = self._context
        rows = [*pairs.winners.tolist(), *pairs.losers.tolist()]
        seeds = [derive(batch.seeds[row], "dpo", draw) for row in rows[: len(rows) // 2]]
        noised = noised_clips(context, pairs.latents[rows], seeds * 2)
        conditioning = batch.conditioning[rows]

        def error() -> Tensor:
            prediction = context.predict(noised.latents, noised.timestep, conditioning.positive)
            preferred, other = noised.error(prediction).chunk(2)
            return preferred - other

        with context.timer("loss"):
            ours = error()
            with context.base():
                base = error()
        margin = -self._options.beta / 2 * (ours - base)
        count = pairs.decided.sum().clamp(min=1)
        value = -(functional.logsigmoid(margin) * pairs.decided).sum() / count
        agreed = ((margin.detach() > 0) * pairs.decided).sum() / count
        metrics = {"dpo/agreement": agreed, "dpo/decided": pairs.decided.mean()}
        return Loss(value / self.passes, pairs.scores, pairs.reward, metrics)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`vader.protocols.Method`."""
        return {"rounds": stored(self._rounds) if self.inner_epochs > 1 else []}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`vader.protocols.Method`."""
        self._rounds = restored(_Pairs, state["rounds"], self._context.device)
