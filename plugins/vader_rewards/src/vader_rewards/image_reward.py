"""ImageReward: people's preference for a picture given the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader import Prompt, Runtime
from vader_rewards.holding import JudgeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores
    from vader_rewards.judge import Judge

TOKENIZER = "bert-base-uncased"


class ImageRewardOptions(JudgeOptions):
    """Options of :class:`ImageReward`."""

    weights: str = Field(
        "THUDM/ImageReward",
        min_length=1,
        description="Folder with ImageReward.pt and med_config.json, or its hub id (owner/name).",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    tokenizer: str | None = Field(
        None,
        min_length=1,
        description="Tokenizer: a hub id or a folder. Null: the folder bert-base-uncased beside the weights, or "
        "google-bert/bert-base-uncased.",
    )
    vision_heads: int | None = Field(
        None,
        ge=1,
        description="Attention heads of the image tower, which its file does not tell. Null: one for 64 channels as in "
        "ViT-L, for 16 in towers narrower than 128.",
    )
    resize: Literal["once", "twice"] = Field(
        "once",
        description="once: both sides at once. twice: width, then height, clamped after each, as PIL does with 8 bits.",
    )
    chunk: int = Field(8, ge=1, description="Frames judged at once.")


class ImageReward:
    """Human preference for a frame given the prompt, mean over frames; about -2 to 2.

    Args:
        options: which weights, how frames are prepared, how the network is held.
        runtime: device and dtype of the encoders; the head is in float32.

    Raises:
        vader.WeightsError: if weights or tokenizer cannot be loaded.

    Source: ImageReward v1.0 (Xu et al. 2023, arXiv 2304.05977), in float and differentiable to the pixels as in its
    ReFL, whose loss is ``0.001 relu(2 - score)``. It agrees with the package image-reward 1.5 but for the rounding of
    frames to 8 bits.
    """

    Options = ImageRewardOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: ImageRewardOptions, runtime: Runtime) -> None:
        from vader_rewards import blip, towers, weights

        source = weights.folder(options.weights, options.revision, patterns=(blip.FILE,))
        beside = source / TOKENIZER
        name = options.tokenizer or (str(beside) if beside.is_dir() else f"google-bert/{TOKENIZER}")
        tokenizer = weights.tokenizer(weights.folder(name, None, option="tokenizer", small=True), name)

        def build() -> Any:
            return blip.load(source, options.weights, options.vision_heads, runtime.dtype)

        key = ("image_reward", str(source), options.vision_heads)
        judge = towers.judge(key, build, options, runtime)
        self._set_up(options, judge, tokenizer)

    @classmethod
    def meta_init(cls, options: ImageRewardOptions, runtime: Runtime, place: Place) -> ImageReward:
        """See :class:`vader.sdk.MetaBuildable`; the network has the sizes of the published one."""
        import torch

        from vader.sdk import MetaTokens
        from vader_rewards import blip, towers

        with torch.device("meta"):
            network = blip.build(blip.PUBLISHED_VISION, blip.PUBLISHED_TEXT, 768, runtime.dtype)
        reward = cls.__new__(cls)
        reward._set_up(options, towers.placed(network, options, runtime, place), MetaTokens(blip.TOKENS))
        return reward

    def _set_up(self, options: ImageRewardOptions, judge: Judge, tokenizer: Any) -> None:
        self._options, self._judge, self._tokenizer = options, judge, tokenizer

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        from vader import sdk
        from vader_rewards import blip

        return sdk.beyond(self._tokenizer, text, blip.TOKENS)

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        import torch

        from vader_rewards import blip, pixels

        ids, mask = blip.tokens(self._tokenizer, [prompt.text for prompt in prompts])
        images = pixels.images(frames)
        network: Any = self._judge.network
        size = network.vision.config.image_size
        clip = torch.arange(len(frames)).repeat_interleave(frames.shape[1])

        def columns(rows: Tensor, which: slice) -> Tensor:
            of = clip[which]
            ready = pixels.normalise(self._prepare(rows, size), pixels.CLIP_MEAN, pixels.CLIP_STD)
            return network(ready, ids[of].to(rows.device), mask[of].to(rows.device))[:, None]

        return pixels.per_clip(self._judge.score(columns, images, self._options.chunk)[:, 0], frames)

    def _prepare(self, images: Tensor, size: int) -> Tensor:
        """The middle square of images whose shorter side is ``size``, clamped as 8-bit images are."""
        from vader_rewards import pixels

        if self._options.resize == "once":
            return pixels.crop_of_short_side(images, size, nearest=True)
        target = pixels.short_side_size(images, size)
        return pixels.center_crop(pixels.resize_twice(images, target), size, nearest=True)
