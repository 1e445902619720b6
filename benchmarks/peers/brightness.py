"""A reward that costs nothing, so that a step is denoiser and decoder."""

from __future__ import annotations

from collections.abc import Sequence

import vader
from vader.sdk import Frames, Scores


class Brightness:
    """The mean of all pixels."""

    Options = vader.Options

    def __init__(self, options: vader.Options) -> None:
        pass

    def score(self, frames: Frames, prompts: Sequence[vader.Prompt]) -> Scores:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return frames.mean(dim=(1, 2, 3, 4))
