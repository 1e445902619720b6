"""How far things move in a clip, by optical flow in closed form. No weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from vader import Options, Prompt

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
COARSEST = 8  # pixels: no level of the pyramid has a shorter side below this
ITERATIONS = 3  # at each level
STILL = 1e-2  # pixels: below this a displacement counts with its square, so that the score is smooth at rest


class FlowOptions(Options):
    """Options of :class:`Flow`."""

    size: int = Field(
        128, ge=16, description="Larger frames are shrunk to a shorter side of this many pixels; less is faster."
    )
    window: int = Field(
        7, ge=3, description="Side in pixels, odd, of the square within which everything is taken to move alike."
    )
    noise: float = Field(
        0.01,
        gt=0,
        description="Brightness steps from pixel to pixel that are noise and say nothing about where a thing is; areas "
        "as plain as that move with what is near them.",
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, window: int) -> int:
        if window % 2 == 0:
            raise ValueError(f"found {window}; expected an odd number of pixels such as 5.")
        return window


class Flow:
    """Mean distance that the picture moves from frame to frame, as a fraction of the frame's width; at least 0.

    Unlike `motion` it does not grow with contrast, and it counts distance, not how much of the picture changes: plain
    areas move with what is near them. A clip in which nothing moves at all has no gradient here.

    Args:
        options: how closely to look.

    Source: pyramidal Lucas-Kanade (Lucas and Kanade 1981, "An iterative image registration technique with an
    application to stereo vision"; Bouguet 2001, "Pyramidal implementation of the affine Lucas Kanade feature tracker").
    """

    Options = FlowOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: FlowOptions) -> None:
        self._options = options

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1], f at least 2 -> ``(b,)``."""
        moved = self.displacement(frames)
        distance = (moved.square().sum(2) + STILL**2).sqrt() - STILL
        return distance.mean(dim=(1, 2, 3)) / moved.shape[-1]

    def displacement(self, frames: Tensor) -> Tensor:
        """Where each pixel goes until the next frame.

        Args:
            frames: ``(b f 3 h w)`` in [0, 1], f at least 2.

        Returns:
            ``(b f-1 2 h w)``, right and down in pixels, of frames shrunk to the option `size`.
        """
        from vader_rewards import pixels

        images = pixels.images(frames)
        if min(images.shape[-2:]) > self._options.size:
            images = pixels.short_side(images, self._options.size, "bilinear")
        grey = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        grey = pixels.by_clip(grey - grey.mean(dim=(2, 3), keepdim=True), frames)
        flow = lucas_kanade(grey[:, :-1].flatten(0, 1), grey[:, 1:].flatten(0, 1), self._options)
        return flow.reshape(frames.shape[0], -1, *flow.shape[1:])


def lucas_kanade(first: Tensor, second: Tensor, options: FlowOptions) -> Tensor:
    """Displacement from one grey image to another, coarse to fine, differentiable in both.

    Args:
        first, second: ``(n 1 h w)``.
        options: window and noise.

    Returns:
        ``(n 2 h w)``, right and down in pixels: ``second(x + flow(x)) = first(x)``.
    """
    from torch.nn import functional

    from vader_rewards import pixels

    pyramid = [(first, second)]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * COARSEST:
        height, width = (side // 2 for side in pyramid[-1][0].shape[-2:])
        one, other = (pixels.resize(image, (height, width), "bilinear") for image in pyramid[-1])
        pyramid.append((one, other))
    flow = first.new_zeros(first.shape[0], 2, *pyramid[-1][0].shape[-2:])
    for one, other in reversed(pyramid):
        scale = [new / old for new, old in zip(one.shape[:1:-1], flow.shape[:1:-1], strict=True)]
        flow = functional.interpolate(flow, one.shape[-2:], mode="bilinear") * flow.new_tensor(scale).view(2, 1, 1)
        flow = _refine(one, other, flow, options)
    return flow


def _refine(first: Tensor, second: Tensor, flow: Tensor, options: FlowOptions) -> Tensor:
    """Better displacements at one level: in each window, least squares of ``slope * move = first - second``.

    Windows without slope keep what the level above says, and no iteration moves further than the pixel for which slopes
    hold.
    """
    import torch
    from torch.nn import functional

    def window(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, options.window, 1, options.window // 2, count_include_pad=False)

    padded = functional.pad(first, (1, 1, 1, 1), mode="replicate")
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, yy, xy = (window(x) for x in (right * right, down * down, right * down))
    xx, yy = xx + options.noise**2, yy + options.noise**2
    for _ in range(ITERATIONS):
        change = first - _moved(second, flow)
        x, y = window(right * change), window(down * change)
        step = torch.cat([yy * x - xy * y, xx * y - xy * x], dim=1) / (xx * yy - xy * xy)
        flow = flow + step / (1 + step.square().sum(1, keepdim=True)).sqrt()
    return flow


def _moved(image: Tensor, flow: Tensor) -> Tensor:
    """``image(x + flow(x))``; beyond the edge lies the edge.

    Bilinear: at whole pixels the slope of torch's bicubic is half as steep again as that of the picture.
    """
    import torch
    from torch.nn import functional

    height, width = image.shape[-2:]
    across = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 0]
    along = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    places = torch.stack([(2 * across + 1) / width - 1, (2 * along + 1) / height - 1], dim=-1)
    return functional.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
