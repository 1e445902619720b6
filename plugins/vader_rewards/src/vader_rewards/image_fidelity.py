"""Whether a clip keeps to the picture that its prompt begins with (image-to-video)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from vader import Prompt, Runtime, SpecError, Video
from vader.sdk import Problem
from vader_rewards.holding import JudgeOptions, judged

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores

BASE = "facebook/dinov2-base"
PARTS = ("first", "all")


class ImageFidelityOptions(JudgeOptions):
    """Options of :class:`ImageFidelity`."""

    weights: str = Field(
        BASE,
        min_length=1,
        description="Image tower in the layout of transformers, DINOv2 or CLIP: a hub id (owner/name) or a "
        "local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    dimensions: dict[str, float] = Field(
        default_factory=lambda: {"first": 0.5, "all": 0.5},
        description="Weight of each score in the reward: first, the first frame given, and all, the mean over frames. "
        "What is left out is logged and does not count.",
    )
    chunk: int = Field(2, ge=1, description="Clips judged at once.")

    @field_validator("dimensions")
    @classmethod
    def _known(cls, chosen: dict[str, float]) -> dict[str, float]:
        return judged(chosen, PARTS)


class ImageFidelity:
    """Cosine of the features of frames and of the prompt's image: the first frame's, and all frames' mean; in [-1, 1].

    Args:
        options: which tower, which scores count.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the weights cannot be loaded.

    Source: the subject scores of VBench's image-to-video suite (Huang et al. 2024, arXiv 2411.13503) compare DINO
    features so.
    """

    Options = ImageFidelityOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: ImageFidelityOptions, runtime: Runtime) -> None:
        from vader_rewards import image_towers, towers, weights

        source = weights.folder(options.weights, options.revision)
        tower = image_towers.of(weights.configuration(source, options.weights), options.weights)

        def build() -> Any:
            return weights.model(tower.kind, source, options.weights, runtime.dtype, strict=tower.whole)

        judge = towers.judge(("image_fidelity", str(source)), build, options, runtime)
        self._options, self._judge, self._tower = options, judge, tower
        self._settings = weights.processor(source, options.weights)
        self._picture = _picture

    @classmethod
    def meta_init(cls, options: ImageFidelityOptions, runtime: Runtime, place: Place, video: Video) -> ImageFidelity:
        """See :class:`vader.sdk.MetaBuildable`; without a folder, for published networks that are known."""
        import torch

        from vader_rewards import image_towers, meta_init, towers

        config = meta_init.config(options.weights, image_towers.PUBLISHED)
        tower = image_towers.of(config, options.weights)
        reward = cls.__new__(cls)
        judge = towers.placed(tower.outlined(config, runtime.dtype), options, runtime, place)
        reward._options, reward._judge, reward._tower, reward._settings = options, judge, tower, {}
        reward._picture = lambda _: torch.zeros(1, 3, video.height, video.width)
        return reward

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Mapping[str, Scores]:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts with images -> the reward, first and all, each ``(b,)``.

        Raises:
            vader.SpecError: a prompt has no image, or one that cannot be read.
        """
        import torch
        from torch.nn import functional

        from vader_rewards import pixels

        pixels.images(frames)
        pictures = [self._picture(prompt) for prompt in prompts]
        factors = [self._options.dimensions.get(part, 0.0) for part in PARTS]

        def features(images: Tensor) -> Tensor:
            found = self._tower.features(self._judge.network, images, self._settings)
            return functional.normalize(found.to(pixels.wide(found.dtype)), dim=-1)

        def columns(clips: Tensor, which: slice) -> Tensor:
            with torch.no_grad():
                wanted = torch.cat([features(picture.to(clips)) for picture in pictures[which]])
            near = (pixels.by_clip(features(pixels.images(clips)), clips) * wanted[:, None]).sum(-1)
            parts = torch.stack([near[:, 0], near.mean(1)], 1)
            return torch.cat([(parts * parts.new_tensor(factors)).sum(1, keepdim=True), parts], 1)

        found = self._judge.score(columns, frames.to(pixels.wide(frames.dtype)), self._options.chunk)
        return {"score": found[:, 0], **{part: found[:, i + 1] for i, part in enumerate(PARTS)}}


def _picture(prompt: Prompt) -> Tensor:
    """The prompt's image, ``(1 3 h w)`` in [0, 1]."""
    from vader_rewards import image_towers

    if prompt.image is None:
        message = f"prompt {prompt.text!r} has no image; image_fidelity compares frames with it. Give it one."
        raise SpecError([Problem("prompts", message)])
    return image_towers.picture(prompt.image)
