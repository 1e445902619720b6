"""Likeness of a clip and its prompt under a network that was trained on videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Prompt, Runtime
from vader_rewards.holding import JudgeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores
    from vader_rewards.judge import Judge

BASE = "microsoft/xclip-base-patch32"
_TOKENS = 77


class VideoTextOptions(JudgeOptions):
    """Options of :class:`VideoText`."""

    weights: str = Field(
        BASE,
        min_length=1,
        description="X-CLIP in the layout of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    chunk: int = Field(4, ge=1, description="Clips judged at once.")


class VideoText:
    """Cosine of a clip and its prompt under X-CLIP; in [-1, 1].

    Any number of frames will do: they are taken evenly, or repeated, to the number that the network was trained with.

    Args:
        options: which weights.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the weights cannot be loaded.

    Source: X-CLIP (Ni et al. 2022, arXiv 2208.02816), without its scale: frames pass messages to each other, and the
    text is read in the light of the clip.
    """

    Options = VideoTextOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: VideoTextOptions, runtime: Runtime) -> None:
        from transformers import XCLIPModel

        from vader_rewards import towers, weights

        source = weights.folder(options.weights, options.revision)

        def build() -> Any:
            return weights.model(XCLIPModel, source, options.weights, runtime.dtype, strict=True)

        judge = towers.judge(("xclip", str(source)), build, options, runtime)
        self._set_up(options, judge, weights.tokenizer(source, options.weights))

    @classmethod
    def meta_init(cls, options: VideoTextOptions, runtime: Runtime, place: Place) -> VideoText:
        """See :class:`vader.sdk.MetaBuildable`; without a folder, for the published network alone."""
        from transformers import XCLIPModel

        from vader.sdk import MetaTokens, meta_network
        from vader_rewards import meta_init, towers

        config = meta_init.config(options.weights, {BASE: {}})  # the published one has the defaults of its class
        network = meta_network(XCLIPModel, config, runtime.dtype).requires_grad_(False).eval()
        reward = cls.__new__(cls)
        reward._set_up(options, towers.placed(network, options, runtime, place), MetaTokens(_TOKENS))
        return reward

    def _set_up(self, options: VideoTextOptions, judge: Judge, tokenizer: Any) -> None:
        self._options, self._judge, self._tokenizer = options, judge, tokenizer

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        from vader import sdk

        return sdk.beyond(self._tokenizer, text, _TOKENS)

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Scores:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        from torch.nn import functional

        from vader_rewards import pixels

        pixels.images(frames)
        network: Any = self._judge.network
        vision = network.config.vision_config
        texts = [prompt.text for prompt in prompts]
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt")

        def columns(clips: Tensor, which: slice) -> Tensor:
            images = pixels.crop_of_short_side(pixels.images(clips), vision.image_size, "bilinear")
            images = pixels.normalise(images, pixels.IMAGENET_MEAN, pixels.IMAGENET_STD).to(network.dtype)
            seen = network(
                input_ids=tokens.input_ids[which].to(clips.device),
                attention_mask=tokens.attention_mask[which].to(clips.device),
                pixel_values=pixels.by_clip(images, clips),
            )
            wide = pixels.wide(network.dtype)
            clip, texts = seen.video_embeds.to(wide), seen.text_embeds.diagonal(dim1=0, dim2=1).T.to(wide)
            return functional.cosine_similarity(clip, texts)[:, None]

        chosen = pixels.evenly(frames, vision.num_frames)
        return self._judge.score(columns, chosen, self._options.chunk)[:, 0]
