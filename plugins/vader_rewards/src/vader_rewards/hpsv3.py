"""HPSv3: people's preference for a picture given the prompt, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from vader import Prompt, Runtime
from vader.sdk import user_path
from vader_rewards.holding import QuantisableOptions, judged
from vader_rewards.templates import ask

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Frames, Place, Scores
    from vader_rewards.judge import Judge
    from vader_rewards.qwen import MetaWords, Words

FILE, MARK, BASE = "HPSv3.safetensors", "<|Reward|>", "Qwen/Qwen2-VL-7B-Instruct"
OUTPUTS = ("mu", "log_sigma")
_TYPICAL_LENGTH = 700
"""Tokens of the question with a prompt of some length, for estimates."""


class Hpsv3Options(QuantisableOptions):
    """Options of :class:`Hpsv3`."""

    weights: str = Field(
        f"MizzenAI/HPSv3:{FILE}",
        min_length=1,
        description="Path of HPSv3.safetensors or of its folder, or owner/name:file on the hub.",
    )
    base: str = Field(
        BASE, min_length=1, description="Where configuration and tokenizer come from: a hub id or a folder."
    )
    dimensions: dict[str, float] = Field(
        default_factory=lambda: {"mu": 1.0},
        description="Weight of each score in the reward: mu, the preference, and log_sigma, how unsure the network is. "
        "What is left out is logged and does not count.",
    )
    min_pixels: int = Field(256 * 28 * 28, ge=28 * 28, description="Smaller frames are enlarged to this many pixels.")
    max_pixels: int = Field(256 * 28 * 28, ge=28 * 28, description="Larger frames are shrunk to this many pixels.")
    resize: Literal["once", "twice"] = Field(
        "once",
        description="once: both sides at once. twice: width, then height, clamped after each, as PIL does with 8 bits.",
    )
    chunk: int = Field(1, ge=1, description="Frames judged at once.")

    @field_validator("dimensions")
    @classmethod
    def _known(cls, chosen: dict[str, float]) -> dict[str, float]:
        return judged(chosen, OUTPUTS)


class Hpsv3:
    """Human preference for a frame given the prompt, mean over frames; higher is better, about -5 to 15.

    Args:
        options: which weights, which scores count, how frames are prepared.
        runtime: device and dtype of the tower; the score head is in float32.

    Raises:
        vader.RegistryError: if the package that quantises is not installed.
        vader.WeightsError: if the weights cannot be loaded.

    Source: HPSv3 (Ma et al. 2025, arXiv 2508.03789), a Qwen2-VL-7B with a reward token, in float and differentiable to
    the pixels; the package's own differentiable route does not clamp. It agrees with the package hpsv3 1.0.0 but for
    the rounding of frames to 8 bits.
    """

    Options = Hpsv3Options
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: Hpsv3Options, runtime: Runtime) -> None:
        from vader_rewards import qwen, towers, weights

        folder = user_path(options.weights)
        path = folder / FILE if (folder / FILE).is_file() else weights.file(options.weights, "weights")
        base = weights.folder(options.base, None, option="base", small=True)
        words = qwen.Words(weights.tokenizer(base, options.base), (MARK,))

        def build() -> Any:
            tensors = weights.state(path)
            tensors.pop("lm_head.weight", None)  # never asked
            head = {name: tensors.pop(name) for name in [*tensors] if name.startswith("rm_head.")}
            config = qwen.base_config(base, options.base)
            tower = qwen.tower(config, tensors, path, "HPSv3", runtime.dtype, options.quantization)
            width = tower.config.text_config.hidden_size
            return qwen.scorer(tower, qwen.ranking_head(head, path, width, runtime.dtype), words, path)

        judge = towers.judge(("hpsv3", str(path), str(base)), build, options, runtime)
        self._set_up(options, judge, words)

    @classmethod
    def meta_init(cls, options: Hpsv3Options, runtime: Runtime, place: Place) -> Hpsv3:
        """See :class:`vader.sdk.MetaBuildable`; the network has the sizes of the published one."""
        from vader_rewards import qwen, towers
        from vader_rewards.qwen_sizes import PUBLISHED

        config = qwen.with_text(PUBLISHED[BASE], vocab_size=151658)
        network = qwen.outlined(config, qwen.ranking, runtime.dtype)
        reward = cls.__new__(cls)
        judge = towers.placed(network, options, runtime, place)
        reward._set_up(options, judge, qwen.MetaWords(_TYPICAL_LENGTH, 1))
        return reward

    def _set_up(self, options: Hpsv3Options, judge: Judge, words: Words | MetaWords) -> None:
        self._options, self._judge, self._words = options, judge, words

    def score(self, frames: Frames, prompts: Sequence[Prompt]) -> Mapping[str, Scores]:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> the reward, mu and log_sigma, each ``(b,)``.

        Raises:
            vader.SpecError: a prompt holds a token of the network.
        """
        import torch

        from vader_rewards import pixels, qwen, sampling

        options = self._options
        images = pixels.images(frames)
        texts = [prompt.text for prompt in prompts]
        self._words.refuse(texts)
        size = sampling.size_within(*frames.shape[-2:], options.min_pixels, options.max_pixels, qwen.FACTOR)
        grid = qwen.grid_of(1, size)
        ids, marks = self._words.encode([ask("hpsv3", text) for text in texts], qwen.IMAGE, grid.tokens())
        clip = torch.arange(len(frames)).repeat_interleave(frames.shape[1])
        network, weigh = self._judge.network, self._weigh

        def columns(rows: Tensor, which: slice) -> Tensor:
            seen = qwen.patches(qwen.ready(rows[:, None], size, twice=options.resize == "twice"))
            of, to = clip[which], rows.device
            return weigh(network(seen, grid.tensor(len(rows)).to(to), ids[of].to(to), marks[of].to(to), "image"))

        found = pixels.by_clip(self._judge.score(columns, images, options.chunk), frames).mean(1)
        return {"score": found[:, 0], **{each: found[:, i + 1] for i, each in enumerate(OUTPUTS)}}

    def _weigh(self, raw: Tensor) -> Tensor:
        """``(n 1 2)`` -> the reward, mu and log sigma, ``(n 3)``."""
        import torch

        scores = raw.squeeze(1)
        factors = scores.new_tensor([self._options.dimensions.get(each, 0.0) for each in OUTPUTS])
        return torch.cat([(scores * factors).sum(1, keepdim=True), scores], 1)
