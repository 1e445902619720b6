"""An action in the clip, recognised by VideoMAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vader import Options, Prompt, Runtime

if TYPE_CHECKING:
    from torch import Tensor


class ActionOptions(Options):
    """Options of :class:`Action`."""

    weights: str = Field(
        "MCG-NJU/videomae-base-finetuned-kinetics",
        min_length=1,
        description="VideoMAE classifier in the layout of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    action: str | int | None = Field(
        None, description="Name or number of the one class wanted. Null: the class that each prompt names."
    )
    classes: dict[str, str | int] = Field(
        default_factory=dict, description="Prompt -> name or number of its class, where the prompt does not name it."
    )
    scale: Literal["log", "probability"] = Field(
        "log", description="log: log-probability, minus the cross-entropy. probability: its exponential."
    )
    preprocess: Literal["official", "reference"] = Field(
        "official",
        description="official: as VideoMAE's processor (aspect kept, middle square). reference: as VADER (squeezed).",
    )


class Action:
    """Log-probability that the clip shows the action its prompt names; at most 0.

    Any number of frames will do: they are taken evenly, or repeated, to the number that the network was trained with.

    Args:
        options: which classes and weights.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the weights cannot be loaded.
        vader.SpecError: if an option names no class.

    Source: the action reward of VADER (``actpred``): cross-entropy under VideoMAE (Tong et al. 2022, arXiv 2203.12602)
    fine-tuned on Kinetics-400. The reference's softmax overflows in fp16 (REFERENCE.md, wrong 22); this one is shifted.
    """

    Options = ActionOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: ActionOptions, runtime: Runtime) -> None:
        from transformers import VideoMAEForVideoClassification

        from vader_rewards import pixels, weights
        from vader_rewards.labels import ClassNames

        source = weights.folder(options.weights, options.revision)
        kind = VideoMAEForVideoClassification
        self._network = weights.model(kind, source, options.weights, runtime.dtype).to(runtime.device)
        labels = self._network.config.id2label
        names = [labels[index] for index in range(len(labels))]
        self._names = ClassNames("action", names, options.action, options.classes)
        settings = weights.processor(source, options.weights)
        self._mean = settings.get("image_mean", pixels.IMAGENET_MEAN)
        self._std = settings.get("image_std", pixels.IMAGENET_STD)
        self._options = options

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``.

        Raises:
            vader.SpecError: if a prompt names no class.
        """
        import torch

        from vader_rewards import pixels

        wanted = torch.tensor([self._names.index(prompt) for prompt in prompts], device=frames.device)
        size = self._network.config.image_size
        clips = pixels.evenly(frames, self._network.config.num_frames)
        images = pixels.images(clips)
        if self._options.preprocess == "official":
            images = pixels.crop_of_short_side(images, size, "bilinear")
        else:
            images = pixels.resize(images, (size, size), "bilinear")
        images = pixels.normalise(images, self._mean, self._std)
        logits = self._network(pixels.by_clip(images, clips).to(self._network.dtype)).logits
        logs = logits.to(pixels.wide(logits.dtype)).log_softmax(-1)
        chosen: Tensor = logs.gather(1, wanted[:, None]).squeeze(1)
        return chosen if self._options.scale == "log" else chosen.exp()
