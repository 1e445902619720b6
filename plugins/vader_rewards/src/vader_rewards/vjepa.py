"""Whether the rest of a clip can be foretold from its start, in the feature space of V-JEPA 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from vader import Options, Prompt, Runtime

if TYPE_CHECKING:
    from torch import Tensor


class VJepaOptions(Options):
    """Options of :class:`VJepa`."""

    weights: str = Field(
        "facebook/vjepa2-vitl-fpc64-256",
        min_length=1,
        description="V-JEPA 2 in the layout of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    window: int = Field(
        16, ge=4, multiple_of=4, description="Frames of a window: the first half is seen, the second foretold."
    )
    stride: int = Field(8, ge=1, description="Frames from one window to the next.")


class VJepa:
    """Minus the mean absolute error with which V-JEPA 2 foretells the second half of a window from the first.

    At most 0.

    Windows slide over the clip; a clip shorter than a window is one window, its frames repeated. The context is encoded
    without the frames to be foretold. A still clip is easy to foretell: guard it with ``motion``.

    Args:
        options: weights and windows.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the weights cannot be loaded.

    Source: the training loss of V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985, eq. 1), L1 between predicted and
    layer-normalised features. VADER's paper used V-JEPA; its code was not released.
    """

    Options = VJepaOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: VJepaOptions, runtime: Runtime) -> None:
        from transformers import VJEPA2Model

        from vader_rewards import weights

        source = weights.folder(options.weights, options.revision)
        self._network = weights.model(VJEPA2Model, source, options.weights, runtime.dtype).to(runtime.device)
        self._options = options

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1], f at least 2 -> ``(b,)``."""
        import torch

        from vader_rewards import pixels

        size = self._network.config.crop_size
        images = pixels.center_crop(pixels.short_side(pixels.images(frames), int(size * 256 / 224), "bilinear"), size)
        images = pixels.normalise(images, pixels.IMAGENET_MEAN, pixels.IMAGENET_STD)
        clips = pixels.by_clip(images, frames)
        window = self._options.window
        if clips.shape[1] < window:
            clips = pixels.evenly(clips, window)
        last = clips.shape[1] - window
        starts = sorted({*range(0, last + 1, self._options.stride), last})
        errors = [self._error(clips[:, start : start + window]) for start in starts]
        return -torch.stack(errors).mean(0)

    def _error(self, window: Tensor) -> Tensor:
        """Mean absolute error of the second half's features, ``(b w 3 size size)`` -> ``(b,)``."""
        import torch
        from torch.nn import functional

        from vader_rewards import pixels

        window = window.to(self._network.dtype)
        truth = self._network.encoder(window).last_hidden_state
        seen = self._network.encoder(window[:, : window.shape[1] // 2]).last_hidden_state
        context, total = seen.shape[1], truth.shape[1]
        places = torch.arange(total, device=window.device).expand(len(window), -1)
        guess = self._network.predictor(seen, [places[:, :context]], [places[:, context:]]).last_hidden_state
        wide = pixels.wide(guess.dtype)
        target = functional.layer_norm(truth[:, context:].to(wide), (truth.shape[-1],))
        error: Tensor = (guess.to(wide) - target).abs().mean(dim=(1, 2))
        return error
