"""The noise schedule of VideoCrafter: latents whose clean part is scaled down as noise goes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vader import NoiseSchedule

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ScaledSchedule(NoiseSchedule):
    """A noise schedule with ``latents = sqrt(alpha) scale clean + sqrt(1 - alpha) noise``.

    Args:
        signal_scale: ``(n,)`` float64, n at least ``train_timesteps``, the scale at each of training's timesteps; None
            for a network trained without.
    """

    signal_scale: Tensor | None = None

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`vader.NoiseSchedule.levels`."""
        signal, sigma = super().levels(timestep)
        if self.signal_scale is None:
            return signal, sigma
        return signal * self.signal_scale.double().to(timestep.device)[timestep.long()], sigma
