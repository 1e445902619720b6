"""VideoReward: visual quality, motion quality and text alignment of a clip, as people compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from vader import Prompt, Runtime, Video
from vader_rewards.holding import QuantisableOptions, judged
from vader_rewards.templates import ask

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores
    from vader_rewards.judge import Judge
    from vader_rewards.qwen import MetaWords, Words
    from vader_rewards.video_reward_files import Settings

DIMENSIONS = ("VQ", "MQ", "TA")
MARKS = tuple(f"<|{each}_reward|>" for each in DIMENSIONS)
BASE = "Qwen/Qwen2-VL-2B-Instruct"
_TYPICAL_LENGTH = 1000
"""Tokens of the question with a prompt of some length, for estimates."""


class VideoRewardOptions(QuantisableOptions):
    """Options of :class:`VideoReward`."""

    weights: str = Field(
        "KwaiVGI/VideoReward",
        min_length=1,
        description="Folder with model_config.json and checkpoint-<step>, or its hub id (owner/name).",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    checkpoint: int | None = Field(None, ge=0, description="Step of the checkpoint. Null: the last one.")
    base: str | None = Field(
        None,
        min_length=1,
        description="The Qwen2-VL it is built on: a hub id or a folder. Null: the one that model_config.json names.",
    )
    dimensions: dict[str, float] = Field(
        default_factory=lambda: dict.fromkeys(DIMENSIONS, 1.0),
        description="Weight of each score in the reward: VQ visual quality, MQ motion quality, TA text alignment. What "
        "is left out is logged and does not count.",
    )
    fps: float | None = Field(None, gt=0, description="Frames a second that are looked at. Null: as it was trained.")
    num_frames: int | None = Field(
        None, ge=2, description="Frames that are looked at, in place of fps. Null: as it was trained."
    )
    clip_fps: float | None = Field(None, gt=0, description="Frames a second of the clips. Null: the run's own.")
    min_pixels: int = Field(128 * 28 * 28, ge=28 * 28, description="Smaller frames are enlarged to this many pixels.")
    max_pixels: int | None = Field(
        None, ge=28 * 28, description="Larger frames are shrunk to this many pixels. Null: as it was trained."
    )
    chunk: int = Field(1, ge=1, description="Clips judged at once.")

    @field_validator("dimensions")
    @classmethod
    def _known(cls, chosen: dict[str, float]) -> dict[str, float]:
        return judged(chosen, DIMENSIONS)


class VideoReward:
    """What people prefer in a clip: the weighted sum of its VQ, MQ and TA, each about -2 to 2.

    Each is normalised by the mean and spread that the published file gives. VQ and MQ do not depend on the prompt.

    Args:
        options: which weights, which scores count, what is looked at.
        runtime: device and dtype of the tower; the score head is in float32.
        video: of the run, for its frames per second.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.WeightsError: if the weights cannot be loaded.

    Source: VideoAlign (Liu et al. 2025, arXiv 2501.13918), a Qwen2-VL with reward tokens, in float and differentiable
    to the pixels. It agrees with the reference but for the rounding of frames to 8 bits.
    """

    Options = VideoRewardOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: VideoRewardOptions, runtime: Runtime, video: Video | None = None) -> None:
        from vader_rewards import qwen, towers, weights
        from vader_rewards import video_reward_files as files

        source = weights.folder(options.weights, options.revision, patterns=files.PATTERNS)
        settings = files.Settings.read(source, options.weights)
        folder = files.checkpoint(source, options.weights, options.checkpoint)
        name = options.base or settings.base
        base = weights.folder(name, None, option="base", small=files.is_whole(folder))
        words = qwen.Words(weights.tokenizer(base, name), MARKS)

        def build() -> Any:
            tensors, head = files.read(folder, base, settings)
            config = qwen.base_config(base, name)
            tower = qwen.tower(config, tensors, folder, "VideoReward", runtime.dtype, options.quantization)
            return qwen.scorer(tower, qwen.token_head(head, folder, tower, len(MARKS), runtime.dtype), words, folder)

        judge = towers.judge(("video_reward", str(folder), str(base)), build, options, runtime)
        self._set_up(options, settings, judge, words, video)

    @classmethod
    def meta_init(cls, options: VideoRewardOptions, runtime: Runtime, place: Place, video: Video) -> VideoReward:
        """See :class:`vader.sdk.MetaBuildable`; the network has the sizes of the published one."""
        from vader_rewards import qwen, towers
        from vader_rewards.qwen_sizes import PUBLISHED
        from vader_rewards.video_reward_files import Settings

        config = qwen.with_text(PUBLISHED[BASE], vocab_size=151660)
        network = qwen.outlined(config, lambda width, dtype: qwen.linear(width, 1, dtype), runtime.dtype)
        settings = Settings(BASE, 2.0, None, 200704, 64, 2.0, None, None)
        reward = cls.__new__(cls)
        judge = towers.placed(network, options, runtime, place)
        reward._set_up(options, settings, judge, qwen.MetaWords(_TYPICAL_LENGTH, len(MARKS)), video)
        return reward

    def _set_up(
        self,
        options: VideoRewardOptions,
        settings: Settings,
        judge: Judge,
        words: Words | MetaWords,
        video: Video | None,
    ) -> None:
        self._options, self._settings, self._judge, self._words = options, settings, judge, words
        self._video = video

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Mapping[str, Scores]:
        """``(b f 3 h w)`` in [0, 1], f at least 2, and ``b`` prompts -> the reward, and VQ, MQ, TA, each ``(b,)``.

        Raises:
            ValueError: a single frame.
            vader.SpecError: a prompt holds a token of the network.
        """
        from vader_rewards import pixels, qwen

        pixels.images(frames)
        texts = [prompt.text for prompt in prompts]
        self._words.refuse(texts)
        chosen = frames[:, self.places(frames.shape[1])].to(pixels.wide(frames.dtype))
        size = self.size(*frames.shape[-2:])
        grid = qwen.grid_of(chosen.shape[1], size)
        ids, marks = self._words.encode([ask("videoreward", text) for text in texts], qwen.VIDEO, grid.tokens())
        network, weigh = self._judge.network, self._weigh

        def columns(clips: Tensor, which: slice) -> Tensor:
            seen = qwen.patches(qwen.ready(clips, size))
            to = clips.device
            return weigh(network(seen, grid.tensor(len(clips)).to(to), ids[which].to(to), marks[which].to(to), "video"))

        found = self._judge.score(columns, chosen, self._options.chunk)
        return {"score": found[:, 0], **{each: found[:, i + 1] for i, each in enumerate(DIMENSIONS)}}

    def places(self, frames: int) -> list[int]:
        """Which of the frames of a clip are looked at.

        Raises:
            ValueError: a single frame.
        """
        from vader_rewards import sampling

        asked, trained = self._options, self._settings
        count = asked.num_frames if asked.num_frames or asked.fps else trained.num_frames
        fps = asked.clip_fps
        if fps is None and self._video is not None:
            fps = sampling.fps_of(frames, self._video.frames, self._video.fps)
        return sampling.looked_at("videoreward", frames, fps, asked.fps or trained.fps, count)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the frames as the tower sees them."""
        from vader_rewards import qwen, sampling

        most = self._options.max_pixels or self._settings.max_pixels
        return sampling.size_within(height, width, self._options.min_pixels, most, qwen.FACTOR)

    def _weigh(self, raw: Tensor) -> Tensor:
        """Raw scores ``(n 3 outputs)`` -> the reward, then each normalised score, ``(n 4)``."""
        import torch

        scores = raw.squeeze(2) if raw.shape[2] == 1 else raw.diagonal(dim1=1, dim2=2)
        mean, std = self._settings.mean, self._settings.std
        if mean is not None and std is not None:
            scores = (scores - scores.new_tensor(mean)) / scores.new_tensor(std)
        factors = scores.new_tensor([self._options.dimensions.get(each, 0.0) for each in DIMENSIONS])
        return torch.cat([(scores * factors).sum(1, keepdim=True), scores], 1)
