"""The image side of a family: how a clip is told the picture that it begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vader.backbones.decoding import encoded_by_statistics
from vader.errors import Problem, SpecError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vader.backbones.backbone import FamilyBackbone
    from vader.protocols import Branch, Prompt
    from vader.shapes import Latents

TakesImage = Literal["never", "optional", "required"]
"""Whether prompts have an image."""

EncodeImage = Callable[["FamilyBackbone", "Image | None"], "dict[str, Tensor]"]
"""``(backbone, picture) -> one row``, the same names for a picture and for None, which ``optional`` families get."""

FIRST, HELD = "first_latents", "held"
"""Of a branch whose first latent frame is held: that frame, ``(b c 1 h w)``; 1 where it is held, else 0, ``(b,)``."""


@dataclass(frozen=True)
class Images:
    """How a family is conditioned on an image.

    Args:
        takes: whether a prompt must have one.
        encode: makes the row that both guidance branches get.
        processors: part -> class in transformers, what prepares a picture for an image encoder.
        hold: the first latent frame is the picture's own: see :func:`hold_first`.
    """

    takes: TakesImage
    encode: EncodeImage
    processors: Mapping[str, str] = field(default_factory=dict)
    hold: bool = False


def opened(path: Path) -> Image:
    """A picture in RGB.

    Raises:
        ValueError: it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"the image {str(path)!r} cannot be read: {reason}. Expected a picture that Pillow opens."
        ) from error


def encode_images(backbone: FamilyBackbone, prompts: Sequence[Prompt]) -> Branch:
    """What the images of ``b`` prompts add to a branch; nothing for a family that takes none.

    Raises:
        SpecError: a prompt has an image that is not taken or cannot be read, or lacks one that is needed.
    """
    import torch

    images = backbone.family.images
    wrong = [unwanted(images.takes if images is not None else "never", prompt) for prompt in prompts]
    if any(wrong):
        raise SpecError([Problem("prompts", message) for message in wrong if message])
    if images is None:
        return {}
    try:
        pictures = [opened(prompt.image) if prompt.image is not None else None for prompt in prompts]
    except ValueError as error:
        raise SpecError([Problem("prompts", str(error))]) from error
    rows = [images.encode(backbone, picture) for picture in pictures]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def unwanted(takes: TakesImage, prompt: Prompt) -> str | None:
    """What is wrong with a prompt's image, or the lack of it; None if nothing."""
    if takes == "never" and prompt.image is not None:
        return f"prompt {prompt.text!r} has the image {str(prompt.image)!r}; the model makes clips from text alone."
    if takes == "required" and prompt.image is None:
        return f"prompt {prompt.text!r} has no image; the model makes clips that begin with one. Give it `image: FILE`."
    return None


def hold_first(
    call: Callable[[Latents, Branch], Tensor], latents: Latents, timestep: Tensor, branch: Branch, train_timesteps: int
) -> Tensor:
    """A flow's prediction with the first latent frame held where the branch says so.

    The denoiser sees the given frame in place of the noisy one; what it says of that frame is replaced by the velocity
    that leads from the noisy frame to the given one, so that every sampler ends there, whatever else a method does with
    the prediction. Other frames have the numbers of diffusers' ``WanImageToVideoPipeline`` with ``expand_timesteps``,
    which replaces the frame after the last step.

    Args:
        call: the denoiser on latents and the rest of the branch.
        latents: ``(b c f h w)``.
        timestep: ``(b,)``, above 0.
        branch: with :data:`FIRST` and :data:`HELD`.
        train_timesteps: the timestep of sigma 1.
    """
    first = branch[FIRST].to(latents)
    held = branch[HELD].to(latents).reshape(-1, 1, 1, 1, 1)
    start = held * first + (1 - held) * latents[:, :, :1]
    rest = {name: tensor for name, tensor in branch.items() if name != FIRST}
    prediction = call(_with_first(latents, start), rest)
    sigma = (timestep / train_timesteps).to(latents).reshape(-1, 1, 1, 1, 1)
    there = (latents[:, :, :1] - first) / sigma
    return _with_first(prediction, held * there + (1 - held) * prediction[:, :, :1])


def _with_first(latents: Tensor, first: Tensor) -> Tensor:
    import torch

    return torch.cat([first, latents[:, :, 1:]], dim=2)


def pixels(backbone: FamilyBackbone, picture: Any) -> Tensor:
    """A picture as diffusers' pipelines take it: stretched to the clip's size.

    Returns:
        ``(1 3 h w)`` in [-1, 1], on the run's device.
    """
    import torch

    video, device = backbone.video, backbone.runtime.device
    if backbone.outlined:
        return torch.zeros(1, 3, video.height, video.width, device=device)
    found: Tensor = backbone.pipeline.video_processor.preprocess(picture, height=video.height, width=video.width)
    return found.to(device, torch.float32)


def first_latents(backbone: FamilyBackbone, picture: Image | None) -> dict[str, Tensor]:
    """What a family that holds the first latent frame gets of a picture, by an autoencoder with ``latents_mean``.

    Source: ``prepare_latents`` of diffusers' ``WanImageToVideoPipeline``, with ``expand_timesteps``.
    """
    import torch

    vae, device = backbone.vae, backbone.runtime.device
    channels, _, height, width = backbone.latent_shape(backbone.video)
    if picture is None:
        return {FIRST: torch.zeros(1, channels, 1, height, width, device=device), HELD: torch.zeros(1, device=device)}
    with torch.autocast(device.type, enabled=False):
        first = encoded_by_statistics(vae, pixels(backbone, picture)[:, :, None])
    return {FIRST: first, HELD: torch.ones(1, device=device)}
