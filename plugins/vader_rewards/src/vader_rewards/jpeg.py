"""The true size of the frames as JPEG. Not differentiable: for validation, and as the truth behind ``compression``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vader import Options, Prompt

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


class JpegSizeOptions(Options):
    """Options of :class:`JpegSize`."""

    quality: int = Field(95, ge=1, le=100, description="Quality of the JPEG encoder.")
    favour: Literal["small", "large"] = Field(
        "small", description="small: the score is minus the size. large: the size itself."
    )


class JpegSize:
    """Size of a frame as JPEG in kB (1000 bytes), mean over frames; minus it by default, so that higher is smaller.

    Args:
        options: quality, and which way the score goes.

    Source: the compressibility reward of DDPO (Black et al. 2023, arXiv 2305.13301, appendix), quality 95.
    """

    Options = JpegSizeOptions
    differentiable: ClassVar[bool] = False

    def __init__(self, options: JpegSizeOptions) -> None:
        self._options = options

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``, without gradient."""
        import torch

        from vader.sdk import to_uint8
        from vader_rewards import pixels

        sizes = [self._size(image) for image in to_uint8(pixels.images(frames))]
        sign = -1.0 if self._options.favour == "small" else 1.0
        return pixels.per_clip(sign * torch.tensor(sizes, device=frames.device), frames)

    def _size(self, image: np.ndarray) -> float:
        from io import BytesIO

        from PIL import Image

        buffer = BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=self._options.quality)
        return buffer.tell() / 1000
