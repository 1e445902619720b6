"""What a clip's pixels are like, whatever they show: numbers that a hacked reward moves far from the base model's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vader.runs.events import ValidationClip
from vader.shapes import Frames

IMAGES = ("colour", "contrast", "detail", "motion")
DIVERSITY = "diversity"
STATISTICS = (*IMAGES, DIVERSITY)
_LUMINANCE = (0.299, 0.587, 0.114)  # Rec. 601


@torch.no_grad()
def image_statistics(frames: Frames) -> list[dict[str, float]]:
    """Statistics of clips ``(b f c h w)`` in [0, 1], frame by frame, each a mean over the clip.

    ``colour``: largest minus smallest colour channel. ``contrast``: standard deviation of a frame's luminance.
    ``detail``: absolute difference of a pixel's luminance from the mean of its four neighbours. ``motion``: absolute
    difference of luminance from the frame before; 0 for one frame.
    """
    sums = torch.zeros(len(IMAGES), len(frames), device=frames.device)
    before: Tensor | None = None
    for t in range(frames.shape[1]):
        frame = frames[:, t].float()
        light = torch.einsum("bchw,c->bhw", frame, frame.new_tensor(_LUMINANCE))
        padded = F.pad(light.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
        around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
        sums[0] += (frame.amax(1) - frame.amin(1)).mean((1, 2))
        sums[1] += light.flatten(1).std(1, correction=0)
        sums[2] += (light - around / 4).abs().mean((1, 2))
        if before is not None:
            sums[3] += (light - before).abs().mean((1, 2))
        before = light
    sums[:3] /= frames.shape[1]
    sums[3] /= max(1, frames.shape[1] - 1)
    return [dict(zip(IMAGES, values, strict=True)) for values in sums.T.tolist()]


class Diversity:
    """How far each clip is from the earlier ones of its prompt, or, for a new prompt, from all earlier ones.

    The root mean square difference of sketches, 0 to 1, mean over those clips. The order of a validation's clips is
    always the same, so the figures of two validations compare clip by clip.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[str, Tensor]] = []

    def of(self, clip: ValidationClip) -> dict[str, float]:
        """The next clip's; nothing for the first, or for one without a sketch."""
        if not clip.sketch:
            return {}
        drawn = torch.frombuffer(bytearray(clip.sketch), dtype=torch.uint8).float() / 255
        others = [other for prompt, other in self._seen if prompt == clip.prompt] or [other for _, other in self._seen]
        self._seen.append((clip.prompt, drawn))
        if not others:
            return {}
        distances = (torch.stack(others) - drawn).pow(2).mean(1).sqrt()
        return {DIVERSITY: math.fsum(distances.tolist()) / len(others)}
