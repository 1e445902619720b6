"""The seam of methods: what turns the batches of an optimizer step into losses."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from vader.protocols.values import Conditioning, Prompt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a method gets for one micro-step: prompts, conditioning, the seed of every clip, and chance of its own."""

    prompts: tuple[Prompt, ...]
    conditioning: Conditioning
    seeds: tuple[int, ...]
    rng: random.Random


@dataclass(frozen=True)
class Loss:
    """What a method gives back for one backward pass.

    Args:
        value: scalar tensor to be minimised, a mean over the clips of a batch; the passes of a batch add up.
        scores: raw scores per reward, each ``(b,)``, detached.
        reward: ``(b,)``, the weighted combination, detached, for logs.
        metrics: further scalars for the log; tensors are read when the optimizer step is done, with all else.
    """

    value: Tensor
    scores: Mapping[str, Tensor]
    reward: Tensor
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)


@runtime_checkable
class Method(Protocol):
    """Turns the batches of one optimizer step into losses. Built-in: ``reward_gradient``, ``flowbp``, ``leapalign``,
    ``srpo``, ``prfl``, ``ddpo``, ``mixgrpo``, ``nft``, ``awm``, ``dpo``.

    It is constructed as ``Method(options, context=...)`` (:class:`vader.methods.context.RolloutContext`).

    Class attributes:
        needs_gradient: whether every reward must be differentiable.
        needs_latents: whether every reward must score latents; default False.
        needs_flow: whether the backbone must predict the velocity of a rectified flow; default False.
    """

    needs_gradient: ClassVar[bool]

    @property
    def group_size(self) -> int:
        """How many neighbouring clips share their prompt; 1 for none. It divides the clips of an optimizer step."""
        ...

    @property
    def inner_epochs(self) -> int:
        """How many optimizer steps use the same clips: their batches have the same prompts and seeds."""
        ...

    @property
    def passes(self) -> int:
        """How many losses :meth:`losses` gives for each batch."""
        ...

    def losses(self, batches: Sequence[Batch], update: int) -> Iterator[Loss]:
        """Losses of one optimizer step, ``passes`` for each batch, batch by batch.

        Each is back-propagated before the next is computed.

        Args:
            batches: of this process, one for each micro-step.
            update: 0 for the first optimizer step on these clips, up to ``inner_epochs - 1``.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What an exact resumption needs of this process: tensors, numbers, strings, lists and dicts of them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that :meth:`state_dict` gave."""
        ...
