"""Rewards that are a small head on CLIP ViT-L/14 image features. One tower serves all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from vader import Prompt, Runtime
from vader_rewards.holding import FrameJudgeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Place
    from vader_rewards.heads import Head
    from vader_rewards.towers import ClipVision

_ASSETS = "It is in VideoCrafter/assets of the repository mihirp1998/VADER, not on the hub: give the path of a copy."


class ClipHeadOptions(FrameJudgeOptions):
    """What every head on CLIP features takes."""

    weights: str = Field(
        "openai/clip-vit-large-patch14",
        min_length=1,
        description="CLIP image tower in the layout of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the tower on the hub. Null: main.")
    preprocess: Literal["official", "reference"] = Field(
        "official",
        description="official: as CLIP's processor (aspect kept, middle square, bicubic; without PIL's "
        "rounding between passes). reference: as VADER "
        "(squeezed to a square, bilinear).",
    )


class AestheticOptions(ClipHeadOptions):
    """Options of :class:`Aesthetic`."""

    head: str = Field(
        "trl-lib/ddpo-aesthetic-predictor:aesthetic-model.pth",
        min_length=1,
        description="Score head: a path, or owner/name:file on the hub. The default is LAION's "
        "sac+logos+ava1-l14-linearMSE.pth.",
    )


class CompressionOptions(ClipHeadOptions):
    """Options of :class:`Compression`."""

    head: str = Field(min_length=1, description=f"Score head compression_reward.pt. {_ASSETS}")
    favour: Literal["small", "large"] = Field(
        "small", description="small: the score is minus the predicted size. large: the predicted size itself."
    )


class WeatherOptions(ClipHeadOptions):
    """Options of :class:`Weather`."""

    head: str = Field(min_length=1, description=f"Score head rainy_reward.pt or snowy_reward.pt. {_ASSETS}")


class _HeadOnClip:
    """CLIP features of each frame through a head, averaged over frames."""

    def __init__(self, options: Any, head: Head, tower: ClipVision) -> None:
        from vader import WeightsError

        self._head, self._tower = head, tower
        self._how: str = options.preprocess
        self._chunk: int = options.chunk
        if head.width != tower.width:
            raise WeightsError(
                f"the head {options.head} takes {head.width} features, but {options.weights} gives {tower.width}. "
                "The published heads belong to openai/clip-vit-large-patch14 (768)."
            )

    @classmethod
    def load(cls, options: Any, runtime: Runtime, between: Any, output: Any) -> _HeadOnClip:
        """From the weights that the options name."""
        from vader_rewards import pixels, towers, weights
        from vader_rewards.heads import load_head

        path = weights.file(options.head, "head")
        head = load_head(path, between, output, pixels.wide(runtime.dtype)).to(runtime.device)
        return cls(options, head, towers.clip_vision(options.weights, options.revision, options, runtime))

    def __call__(self, frames: Tensor) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        from vader_rewards import pixels

        def columns(rows: Tensor, _: slice) -> Tensor:
            scores: Tensor = self._head(self._tower(self._tower.prepare(rows, self._how)))
            return scores[:, None]

        return pixels.per_clip(self._tower.judge.score(columns, pixels.images(frames), self._chunk)[:, 0], frames)


class Aesthetic:
    """How beautiful people would find the frames, mean over frames; about 1 to 10.

    Args:
        options: which weights, and how frames are prepared.
        runtime: device and dtype of the tower.

    Raises:
        vader.WeightsError: if tower or head cannot be loaded, or do not belong together.

    Source: LAION's improved aesthetic predictor (Schuhmann 2022), as in VADER: loss ``0.1 |score - 10|``.
    """

    Options = AestheticOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: AestheticOptions, runtime: Runtime) -> None:
        self._network = _HeadOnClip.load(options, runtime, "none", "none")

    @classmethod
    def meta_init(cls, options: AestheticOptions, runtime: Runtime, place: Place) -> Aesthetic:
        """See :class:`vader.sdk.MetaBuildable`; the head has the widths of LAION's."""
        from vader_rewards import meta_init

        reward = cls.__new__(cls)
        head = meta_init.head(meta_init.AESTHETIC, runtime, place)
        reward._network = _HeadOnClip(
            options, head, meta_init.clip_vision(options.weights, options.revision, options, runtime, place)
        )
        return reward

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return self._network(frames)


class Compression:
    """The predicted JPEG size of the frames in kB, mean over frames; minus it, so that higher is smaller, by default.

    For a size to come near to, set ``favour: large`` and the reward's ``target``. The held-out truth is ``jpeg_size``.

    Args:
        options: which weights, how frames are prepared, and which way the score goes.
        runtime: device and dtype of the tower.

    Raises:
        vader.WeightsError: if tower or head cannot be loaded, or do not belong together.

    Source: the compression reward of VADER, with ReLU between its layers.
    """

    Options = CompressionOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: CompressionOptions, runtime: Runtime) -> None:
        self._network = _HeadOnClip.load(options, runtime, "relu", "none")
        self._sign = -1.0 if options.favour == "small" else 1.0

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return self._sign * self._network(frames)


class Weather:
    """The probability, in [0, 1], that it rains or snows in the frames, mean over frames; the head says which.

    Args:
        options: which weights, and how frames are prepared.
        runtime: device and dtype of the tower.

    Raises:
        vader.WeightsError: if tower or head cannot be loaded, or do not belong together.

    Source: the weather rewards of VADER: loss ``|score - target|``.
    """

    Options = WeatherOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: WeatherOptions, runtime: Runtime) -> None:
        self._network = _HeadOnClip.load(options, runtime, "none", "sigmoid")

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return self._network(frames)
