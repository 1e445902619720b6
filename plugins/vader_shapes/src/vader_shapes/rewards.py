"""Rewards of the shapes world: a learned one, three analytic ones, and the exact evaluator as a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vader import Options, Prompt, Runtime

if TYPE_CHECKING:
    from torch import Tensor


class NoOptions(Options):
    """This reward has no options."""


class Alignment:
    """How well a clip shows its prompt, by a small learned clip-text scorer.

    The scorer is trained on rendered clips and never on the exact evaluator. Higher is better; see PRETRAINING.md for
    the range over clips of the base model.
    """

    Options = NoOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: NoOptions, runtime: Runtime) -> None:
        from vader_shapes.scenes.scorer import load_scorer

        self._scorer = load_scorer().to(runtime.device).requires_grad_(False).eval()

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        scores: Tensor = self._scorer(frames.float(), [prompt.text for prompt in prompts])
        return scores


class Colourfulness:
    """Mean saturation in the sense of max - min over the colour channels, in [0, 1].

    Maximised without a guard it erases the prompt: the whole clip takes one vivid colour.
    """

    Options = NoOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: NoOptions) -> None:
        pass

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return (frames.amax(2) - frames.amin(2)).mean(dim=(1, 2, 3))


class Sharpness:
    """Mean difference between neighbouring pixels, in [0, 1]: easy to hack.

    At first it asks for crisp edges, which the base model lacks; maximised further it asks for stripes and noise.
    """

    Options = NoOptions
    differentiable: ClassVar[bool] = True

    def __init__(self, options: NoOptions) -> None:
        pass

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        across, along = frames.diff(dim=-1).abs(), frames.diff(dim=-2).abs()
        return (across.mean(dim=(1, 2, 3, 4)) + along.mean(dim=(1, 2, 3, 4))) / 2


class Motion:
    """Mean absolute difference of neighbouring frames, in [0, 1]."""

    Options = NoOptions
    differentiable: ClassVar[bool] = True
    frames: ClassVar[int] = 2

    def __init__(self, options: NoOptions) -> None:
        pass

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1], f at least 2 -> ``(b,)``."""
        return frames.diff(dim=1).abs().mean(dim=(1, 2, 3, 4))


class AccuracyOptions(Options):
    """Options of :class:`Accuracy`."""

    attribute: Literal["all", "count", "shape", "colour", "size", "motion", "speed", "relation", "background"] = Field(
        "all", description="Which attribute must be right; all: every one. What a prompt does not say is right."
    )


class Accuracy:
    """1 where the exact evaluator reads the prompt's attributes back from the pixels, else 0. Not differentiable.

    Clips of another size than the world's are resized to it.
    """

    Options = AccuracyOptions
    differentiable: ClassVar[bool] = False
    frames: ClassVar[int] = 2
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: AccuracyOptions) -> None:
        self._attribute = options.attribute

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)`` of 0 and 1."""
        from torch.nn import functional

        from vader_shapes.scenes.evaluator import accuracy
        from vader_shapes.world import SIZE

        clips = frames.detach().float()
        if clips.shape[-2:] != (SIZE, SIZE):
            pixels = functional.interpolate(clips.flatten(0, 1), (SIZE, SIZE), mode="bilinear", antialias=True)
            clips = pixels.clamp(0, 1).unflatten(0, clips.shape[:2])
        read = accuracy(clips, [prompt.text for prompt in prompts])
        return read[self._attribute].to(frames.device, frames.dtype)
