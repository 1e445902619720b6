"""An object in the frames, to be removed or favoured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from vader import Options, Prompt, Runtime, SpecError
from vader.sdk import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from vader_rewards.detectors import Boxes, Detector

WEIGHTS = {
    "yolos": "hustvl/yolos-base",
    "grounding_dino": "IDEA-Research/grounding-dino-base",
    "ultralytics": "Ultralytics/YOLO11:yolo11n.pt",
    "groundingdino": "ShilongLiu/GroundingDINO:groundingdino_swint_ogc.pth",
}
BERT = "google-bert/bert-base-uncased"
FOLDERS = ("yolos", "grounding_dino")
"""Engines whose weights are a folder; those of the others are one file."""


class DetectionOptions(Options):
    """Options of :class:`Detection`."""

    engine: Literal["yolos", "grounding_dino", "ultralytics", "groundingdino"] = Field(
        "yolos",
        description="yolos: the classes of COCO. grounding_dino: any object, named in words. ultralytics: a YOLO of "
        "that package (AGPL-3.0). groundingdino: as grounding_dino, by the package groundingdino-py, which needs an "
        "environment of its own.",
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
        description="yolos, grounding_dino: hub id (owner/name) or local folder. Null: hustvl/yolos-base or "
        "IDEA-Research/grounding-dino-base. Smaller: hustvl/yolos-tiny and IDEA-Research/grounding-dino-tiny. "
        "ultralytics, groundingdino: path of a file, or owner/name:file on the hub. Null: "
        "Ultralytics/YOLO11:yolo11n.pt or ShilongLiu/GroundingDINO:groundingdino_swint_ogc.pth.",
    )
    text_encoder: str | None = Field(
        None,
        min_length=1,
        description="groundingdino: hub id or local folder of its BERT, for tokenizer and configuration. Null: "
        "google-bert/bert-base-uncased.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Confidence above which a box counts. Null: 0.2 for yolos, 0.25 for ultralytics, 0.4 for the "
        "others.",
    )
    below: Literal["soft", "zero"] = Field(
        "soft",
        description="An image without a detection. soft: its likeliest box counts, so that there is always a gradient. "
        "zero: confidence 0, no gradient, as VADER.",
    )
    preprocess: Literal["official", "reference"] = Field(
        "official",
        description="official: as the detector's processor. reference: as VADER (height 512); not for ultralytics.",
    )

    size: int | None = Field(
        None,
        ge=32,
        description="Shorter side in pixels at which frames are looked at; for ultralytics the longer one. Null: as "
        "the detector was trained (often 800, ultralytics 640). Less is faster and takes less memory.",
    )

    @model_validator(mode="after")
    def _together(self) -> DetectionOptions:
        if self.engine not in FOLDERS and self.revision is not None:
            raise ValueError(
                f"revision {self.revision!r} is for weights that are a folder; those of {self.engine} are a file. "
                "Leave it out, or give `weights` the path of the file that you want."
            )
        if self.engine == "ultralytics" and self.preprocess == "reference":
            raise ValueError("preprocess 'reference' is VADER's, which has no ultralytics. Expected 'official'.")
        if self.size is not None and self.preprocess == "reference":
            raise ValueError(
                f"size {self.size} has no effect on preprocess 'reference', whose height is 512. Leave it out."
            )
        if self.engine != "groundingdino" and self.text_encoder is not None:
            raise ValueError(f"text_encoder is for engine groundingdino; found {self.engine}. Leave it out.")
        return self


class Detection:
    """How sure a detector is of a named object, mean over frames: ``1 - confidence`` to remove it, or ``confidence``.

    The confidence of a frame is the mean over the boxes that count. It is a mean over all frames: a frame without a
    detection does not reset the sum (REFERENCE.md, wrong 4), and prompts may differ within a batch (wrong 5).

    Args:
        options: object, detector and what counts.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if the engine's package is not installed.
        vader.WeightsError: if the detector cannot be loaded.
        vader.SpecError: if the detector does not know the object.

    Source: the object-removal rewards of VADER: loss = mean confidence.
    """

    Options = DetectionOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: DetectionOptions, runtime: Runtime) -> None:
        self._detector = _detector(options, runtime)
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


def _detector(options: DetectionOptions, runtime: Runtime) -> Detector:
    """The engine, loaded."""
    name = options.weights or WEIGHTS[options.engine]
    if options.engine == "ultralytics":
        from vader_rewards.ultralytics_package import Ultralytics

        return Ultralytics(name, options.size, runtime)
    if options.engine == "groundingdino":
        from vader_rewards.groundingdino_package import GroundingDinoPackage

        return GroundingDinoPackage(name, options.text_encoder or BERT, options.preprocess, options.size, runtime)
    from vader_rewards import detectors

    kind = detectors.Yolos if options.engine == "yolos" else detectors.GroundingDino
    return kind(name, options.revision, options.preprocess, options.size, runtime)
