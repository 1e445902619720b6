"""YOLO networks of the package ultralytics (AGPL-3.0) as detectors; the package is imported when one is built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from vader import Prompt, Runtime, WeightsError
from vader.sdk import first_line
from vader_rewards import pickled, pixels, weights
from vader_rewards.detectors import Boxes
from vader_rewards.extras import packaged, require
from vader_rewards.labels import ClassNames

GREY = 114 / 255
OVERLAP = 0.7


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a checkpoint.

    Args:
        architecture: name of one of the package's own, such as yolo11n.yaml.
        names: of the classes, in order.
        size: of the longer side of its images, in pixels.
        tensors: its weights.
    """

    architecture: str
    names: list[str]
    size: int
    tensors: dict[str, Tensor]


def checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of ultralytics. It is a pickled module: nothing that it names is run.

    The architecture is taken by its name alone. A file's own description of one is not: the package evaluates parts of
    such a description as code.

    Raises:
        vader.WeightsError: if it is none.
    """
    found = pickled.read(path)
    try:
        module = found.get("ema") or found["model"]
        state, tensors = module.state, pickled.tensors(module)
        names = state["names"]
        names = [str(names[index]) for index in range(len(names))]
        architecture = re.split(r"[/\\]", str(state["yaml"]["yaml_file"]))[-1]
        size = (found.get("train_args") or {}).get("imgsz", 640)
        size = max(size) if isinstance(size, Sequence) else int(size)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path} is no checkpoint of an ultralytics detector: {type(error).__name__} {first_line(error)}. "
            "Expected a .pt file such as yolo11n.pt."
        ) from error
    return Checkpoint(architecture, names, size, tensors)


def letterbox(images: Tensor, size: int, stride: int) -> Tensor:
    """The longer side to ``size``, the aspect kept, and grey margins that make both sides multiples of ``stride``.

    Args:
        images: ``(n 3 h w)`` in [0, 1].

    Source: ``LetterBox(size, auto=True, stride=stride)`` of ultralytics, which rounds to 8 bits in between.
    """
    height, width = images.shape[-2:]
    scale = min(size / height, size / width)
    inside = max(round(height * scale), 1), max(round(width * scale), 1)
    images = pixels.resize(images, inside, "bilinear", antialias=False)
    down, across = ((size - side) % stride for side in inside)
    top, left = round(down / 2 - 0.1), round(across / 2 - 0.1)
    return functional.pad(images, (left, across - left, top, down - top), value=GREY)


class Ultralytics:
    """A YOLO of ultralytics: a fixed list of classes, those of COCO in the published ones.

    A box counts when the object is its likeliest class, it passes the threshold, and no surer box of the object covers
    the same place (intersection over union above 0.7, as the package's own default); a network without that last step,
    such as YOLO26, has no need of it.

    Raises:
        vader.RegistryError: if ultralytics is not installed.
        vader.WeightsError: if the checkpoint cannot be loaded.
    """

    threshold: ClassVar[float] = 0.25

    def __init__(self, name: str, size: int | None, runtime: Runtime) -> None:
        require("detection", "ultralytics", "ultralytics")
        path = weights.file(name, "weights")
        found = checkpoint(path)
        self._network = _network(found, path).to(runtime.device, runtime.dtype)
        self._head: Any = self._network.model[-1]
        self._stride = int(self._network.stride.max())
        self._names, self._size, self._dtype = ClassNames("detection", found.names), size or found.size, runtime.dtype

    def check(self, name: str) -> None:
        """See :class:`vader_rewards.detectors.Detector`."""
        self._names.index(Prompt(name))

    def detect(self, images: Tensor, objects: Sequence[str], threshold: float) -> Boxes:
        """See :class:`vader_rewards.detectors.Detector`."""
        wanted = torch.tensor([self._names.index(Prompt(name)) for name in objects], device=images.device)
        output, raw = self._network(letterbox(images, self._size, self._stride).to(self._dtype))
        end_to_end = self._head.end2end
        logits = (raw["one2one"] if end_to_end else raw.get("one2many", raw))["scores"]
        shares = logits.to(pixels.wide(logits.dtype)).sigmoid()
        confidence = shares.gather(1, wanted[:, None, None].expand(-1, 1, shares.shape[2])).squeeze(1)
        found = (shares.argmax(1) == wanted[:, None]) & (confidence > threshold)
        if not end_to_end:
            found = _uncovered(output[:, :4].transpose(1, 2), confidence, found)
        return Boxes(confidence, found)


def _network(found: Checkpoint, path: Path) -> Any:
    """A detection network of ultralytics, with the weights of a checkpoint."""
    from ultralytics.nn.modules.head import Detect, v10Detect
    from ultralytics.nn.tasks import DetectionModel

    description = _description(found.architecture)
    if description is None:
        raise WeightsError(
            f"{path} has the architecture {found.architecture!r}, which is none of this version of ultralytics. "
            "Expected one of the package's own, such as yolo11n.yaml; `pip install --upgrade ultralytics` brings new "
            "ones."
        )
    refusal = f"{path}: {found.architecture} is no detector of boxes. Expected one, such as yolo11n.yaml."
    try:
        with torch.random.fork_rng(devices=[]):  # its first weights are random
            network = DetectionModel(description, nc=len(found.names), verbose=False)
    except Exception as error:  # layers that do not fit raise errors of any kind
        raise WeightsError(refusal) from error
    if type(network.model[-1]) not in (Detect, v10Detect):
        raise WeightsError(refusal)
    weights.fill(network, found.tensors, path, f"{found.architecture} with {len(found.names)} classes")
    return network.requires_grad_(False).eval()


def _description(architecture: str) -> dict[str, Any] | None:
    """What ultralytics' own file of that name says, yolo11n.yaml being size n of yolo11.yaml; None if there is none.

    The package's own search would take a file of the working directory, or the network's, for its own.
    """
    files = {path.name: path for path in packaged("ultralytics", "cfg", "models").rglob("*.yaml")}
    sized = re.fullmatch(r"(\D+\d+)([nslmx])(\W.*)", architecture)
    name = sized[1] + sized[3] if sized and architecture not in files else architecture
    if name not in files:
        return None
    description: dict[str, Any] = yaml.safe_load(files[name].read_text(encoding="utf-8"))
    return description | {"scale": sized[2]} if sized else description


def _uncovered(boxes: Tensor, confidence: Tensor, found: Tensor) -> Tensor:
    """Of the boxes found, those that no surer one covers.

    Args:
        boxes: ``(n q 4)``: centre, width and height.
        confidence: ``(n q)``.
        found: ``(n q)``.

    Returns:
        ``(n q)``.
    """
    from torchvision.ops import batched_nms

    image, box = found.nonzero(as_tuple=True)
    centre, half = boxes.detach()[found].float().split(2, 1)
    corners = torch.cat([centre - half / 2, centre + half / 2], 1)
    kept = batched_nms(corners, confidence.detach()[found].float(), image, OVERLAP)
    result = torch.zeros_like(found)
    result[image[kept], box[kept]] = True
    return result
