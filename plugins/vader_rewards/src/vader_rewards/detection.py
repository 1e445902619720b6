"""An object in the frames, to be removed or favoured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vader import Options, Prompt, Runtime, SpecError
from vader.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from vader_rewards.detectors import Boxes, Detector

WEIGHTS = {"yolos": "hustvl/yolos-base", "grounding_dino": "IDEA-Research/grounding-dino-base"}


class DetectionOptions(Options):
    """Options of :class:`Detection`."""

    engine: Literal["yolos", "grounding_dino"] = Field(
        "yolos", description="yolos: the classes of COCO. grounding_dino: any object, named in words."
    )
    object: str | None = Field(
        None, min_length=1, description="The object, such as book. Null: each prompt's metadata `object`."
    )
    goal: Literal["remove", "favour"] = Field(
        "remove", description="remove: higher without the object. favour: higher with it."
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="Hub id (owner/name) or local folder. Null: hustvl/yolos-base or "
        "IDEA-Research/grounding-dino-base. Smaller: hustvl/yolos-tiny and IDEA-Research/grounding-dino-tiny.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Confidence above which a box counts. Null: 0.2 for yolos, 0.4 for grounding_dino.",
    )
    below: Literal["soft", "zero"] = Field(
        "soft",
        description="An image without a detection. soft: its likeliest box counts, so that there is always a gradient. "
        "zero: confidence 0, no gradient, as VADER.",
    )
    preprocess: Literal["official", "reference"] = Field(
        "official", description="official: as the detector's processor. reference: as VADER (height 512)."
    )


class Detection:
    """How sure a detector is of a named object, mean over frames: ``1 - confidence`` to remove it, or ``confidence``.

    The confidence of a frame is the mean over the boxes that count. It is a mean over all frames: a frame without a
    detection does not reset the sum (REFERENCE.md, wrong 4), and prompts may differ within a batch (wrong 5).

    Args:
        options: object, detector and what counts.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the detector cannot be loaded.
        vader.SpecError: if the detector does not know the object.

    Source: the object-removal rewards of VADER: loss = mean confidence.
    """

    Options = DetectionOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: DetectionOptions, runtime: Runtime) -> None:
        from vader_rewards import detectors

        engine = detectors.Yolos if options.engine == "yolos" else detectors.GroundingDino
        name = options.weights or WEIGHTS[options.engine]
        self._detector: Detector = engine(name, options.revision, options.preprocess, runtime)
        if options.object is not None:
            self._detector.check(options.object)
        self._options = options
        self._threshold = self._detector.threshold if options.threshold is None else options.threshold

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``, in [0, 1]."""
        from vader_rewards import pixels

        objects = [self._object(prompt) for prompt in prompts for _ in range(frames.shape[1])]
        boxes = self._detector.detect(pixels.images(frames), objects, self._threshold)
        confidence = pixels.per_clip(self._confidence(boxes), frames)
        return confidence if self._options.goal == "favour" else 1 - confidence

    def _confidence(self, boxes: Boxes) -> Tensor:
        """``(n,)``: the mean over detections or, without one, the likeliest box."""
        count = boxes.found.sum(1)
        mean = (boxes.confidence * boxes.found).sum(1) / count.clamp(min=1)
        if self._options.below == "zero":
            return mean
        return mean.where(count > 0, boxes.confidence.amax(1))

    def _object(self, prompt: Prompt) -> str:
        name = self._options.object or prompt.metadata.get("object")
        if not isinstance(name, str):
            message = (
                f"detection: no object to look for in prompt {prompt.text!r}. Set the option `object`, as in book."
            )
            raise SpecError([Problem("rewards", message)])
        return name
