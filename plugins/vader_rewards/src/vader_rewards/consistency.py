"""Whether a clip keeps showing the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vader import Prompt, Runtime
from vader_rewards.clip_heads import ClipHeadOptions

if TYPE_CHECKING:
    from torch import Tensor


class TemporalConsistencyOptions(ClipHeadOptions):
    """Options of :class:`TemporalConsistency`."""

    chunk: int = Field(1, ge=1, description="Clips judged at once.")


class TemporalConsistency:
    """Mean cosine of CLIP image features between neighbouring frames, in [-1, 1]; about 0.9 to 1.

    A still clip has 1, so guard it with ``motion``. It shares its tower with ``aesthetic``.

    Args:
        options: which tower, and how frames are prepared.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the tower cannot be loaded.

    Source: frame consistency of Tune-A-Video (Wu et al. 2023, arXiv 2212.11565) and VBench.
    """

    Options = TemporalConsistencyOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: TemporalConsistencyOptions, runtime: Runtime) -> None:
        from vader_rewards import towers

        self._tower = towers.clip_vision(options.weights, options.revision, options, runtime)
        self._how, self._chunk = options.preprocess, options.chunk

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1], f at least 2 -> ``(b,)``."""
        from vader_rewards import pixels

        def columns(rows: Tensor, _: slice) -> Tensor:
            features = self._tower(self._tower.prepare(pixels.images(rows), self._how))
            clips = pixels.by_clip(features, rows)
            return (clips[:, 1:] * clips[:, :-1]).sum(-1).mean(1, keepdim=True)

        return self._tower.judge.score(columns, frames, self._chunk)[:, 0]
