"""How much moves in a clip. No weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vader import Options, Prompt

if TYPE_CHECKING:
    from torch import Tensor


class MotionOptions(Options):
    """Options of :class:`Motion`."""

    cell: int = Field(
        4, ge=1, description="Frames are averaged over squares of this many pixels first, so that noise is no motion."
    )
    ignore_flicker: bool = Field(
        True, description="Take each frame's mean colour away first, so that a change of brightness is no motion."
    )


class Motion:
    """Mean absolute difference of neighbouring frames, in [0, 1]; about 0.01 to 0.1 for real clips.

    The guard against clips that freeze while an image reward rises: give it a small weight, or a target near the base
    model's own value. A clip in which nothing moves at all has no gradient here.

    Args:
        options: what does not count as motion.

    Source: the dynamic degree of VBench (Huang et al. 2024, arXiv 2311.17982), by frame differences in place of flow.
    """

    Options = MotionOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: MotionOptions) -> None:
        self._options = options

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1], f at least 2 -> ``(b,)``."""
        from torch.nn import functional

        from vader_rewards import pixels

        images, cell = pixels.images(frames), self._options.cell
        images = functional.avg_pool2d(images, cell, ceil_mode=True, count_include_pad=False)
        if self._options.ignore_flicker:
            images = images - images.mean(dim=(2, 3), keepdim=True)
        return pixels.by_clip(images, frames).diff(dim=1).abs().mean(dim=(1, 2, 3, 4))
