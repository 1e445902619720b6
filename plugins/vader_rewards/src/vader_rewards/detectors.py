"""Detectors behind one interface: how sure they are, box by box, that an object is in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from vader import Prompt, Runtime, WeightsError
from vader_rewards import pixels, weights
from vader_rewards.labels import ClassNames

_UNBOUNDED = 10**6
DETR_SIDES = {"shortest_edge": 800, "longest_edge": 1333}


@dataclass(frozen=True)
class Boxes:
    """What a detector says of ``n`` images with ``q`` boxes each.

    Args:
        confidence: ``(n q)`` in [0, 1], that the box holds the wanted object; with gradient.
        found: ``(n q)``, whether the box counts as a detection of it.
    """

    confidence: Tensor
    found: Tensor


class Detector(Protocol):
    """Finds named objects.

    Class attributes:
        threshold: confidence above which a box counts, unless the user sets another.
    """

    threshold: ClassVar[float]

    def check(self, name: str) -> None:
        """An object's name is one it can look for.

        Raises:
            vader.SpecError: if not.
        """
        ...

    def detect(self, images: Tensor, objects: Sequence[str], threshold: float) -> Boxes:
        """``(n 3 h w)`` in [0, 1] and ``n`` names."""
        ...


def prepare(images: Tensor, how: str, size: dict[str, int], multiple: int) -> Tensor:
    """Normalised images of the size a detector wants.

    ``official``: the shorter side to ``size["shortest_edge"]`` unless the longer one passes ``size["longest_edge"]``.
    ``reference``: height 512 whatever the aspect, without antialiasing, as VADER does (REFERENCE.md, wrong 23).
    """
    if how == "official":
        images = pixels.between(images, size["shortest_edge"], size["longest_edge"], multiple=multiple)
    else:
        height, width = images.shape[-2:]
        images = pixels.resize(images, (512, 512 * width // height), "bilinear", antialias=False)
    return pixels.normalise(images, pixels.IMAGENET_MEAN, pixels.IMAGENET_STD)


def phrase(name: str) -> str:
    """An object's name as Grounding DINO was trained with it: small letters, and a full stop."""
    return f"{name.strip().rstrip('.').lower()}."


def sides(own: dict[str, int], shortest: int | None) -> dict[str, int]:
    """A detector's own limits of its images' sides, or limits in the same proportion."""
    if shortest is None:
        return own
    return {"shortest_edge": shortest, "longest_edge": shortest * own["longest_edge"] // own["shortest_edge"]}


def _size(folder: Path, name: str, shortest: int | None) -> dict[str, int]:
    """The sizes that a checkpoint's processor has, or those of DETR, unless the user wants another.

    Old files say ``size: 512, max_size: 864``; without a longest side none is too long.

    Raises:
        vader.WeightsError: the processor wants one size of all pictures.
    """
    said = weights.processor(folder, name)
    size, own = said.get("size"), DETR_SIDES
    if isinstance(size, int):
        own = {"shortest_edge": size, "longest_edge": said.get("max_size", DETR_SIDES["longest_edge"])}
    elif isinstance(size, dict) and "shortest_edge" in size:
        own = {"shortest_edge": size["shortest_edge"], "longest_edge": size.get("longest_edge") or _UNBOUNDED}
    elif size is not None and shortest is None:
        raise WeightsError(
            f"{name}: preprocessor_config.json says size: {size}, which squeezes every picture into it; expected "
            "shortest_edge and longest_edge. Set the option `size` to the shorter side that you want."
        )
    if not all(isinstance(side, int) and side > 0 for side in own.values()):
        raise WeightsError(f"{name}: preprocessor_config.json says size: {size}, which is none. Fetch it again.")
    return sides(own, shortest)


class Yolos:
    """YOLOS (Fang et al. 2021, arXiv 2106.00666): a fixed list of classes, those of COCO.

    A box counts when the object is its likeliest class and passes the threshold.
    """

    threshold: ClassVar[float] = 0.2

    def __init__(self, name: str, revision: str | None, how: str, size: int | None, runtime: Runtime) -> None:
        from transformers import YolosForObjectDetection

        folder = weights.folder(name, revision)
        self._network = weights.model(YolosForObjectDetection, folder, name, runtime.dtype).to(runtime.device)
        labels = self._network.config.id2label
        self._names = ClassNames("detection", [labels[index] for index in range(len(labels))])
        self._how, self._size = how, _size(folder, name, size)

    def check(self, name: str) -> None:
        """See :class:`Detector`."""
        self._names.index(Prompt(name))

    def detect(self, images: Tensor, objects: Sequence[str], threshold: float) -> Boxes:
        """See :class:`Detector`."""
        wanted = torch.tensor([self._names.index(Prompt(name)) for name in objects], device=images.device)
        x = prepare(images, self._how, self._size, 16).to(self._network.dtype)
        logits = self._network(pixel_values=x).logits
        shares = logits.to(pixels.wide(logits.dtype)).softmax(-1)[..., :-1]
        confidence = shares.gather(2, wanted[:, None, None].expand(-1, shares.shape[1], 1)).squeeze(2)
        likeliest = shares.argmax(-1) == wanted[:, None]
        return Boxes(confidence, likeliest & (confidence > threshold))


class GroundingDino:
    """Grounding DINO (Liu et al. 2023, arXiv 2303.05499): any object, named in words."""

    threshold: ClassVar[float] = 0.4

    def __init__(self, name: str, revision: str | None, how: str, size: int | None, runtime: Runtime) -> None:
        from transformers import GroundingDinoForObjectDetection

        folder = weights.folder(name, revision)
        self._tokenizer = weights.tokenizer(folder, name)
        kind = GroundingDinoForObjectDetection
        self._network = weights.model(kind, folder, name, runtime.dtype).to(runtime.device)
        self._how, self._size = how, _size(folder, name, size)

    def check(self, name: str) -> None:
        """Any words will do."""

    def detect(self, images: Tensor, objects: Sequence[str], threshold: float) -> Boxes:
        """See :class:`Detector`. The full stop that the model was trained with is added here."""
        texts = [phrase(name) for name in objects]
        tokens: Any = self._tokenizer(texts, padding=True, return_tensors="pt").to(images.device)
        x = prepare(images, self._how, self._size, 1).to(self._network.dtype)
        logits = self._network(pixel_values=x, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).logits
        confidence = logits.to(pixels.wide(logits.dtype)).sigmoid().amax(-1)
        return Boxes(confidence, confidence > threshold)
