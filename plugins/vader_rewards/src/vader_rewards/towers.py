"""Frozen feature towers, held once however many rewards use them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader import Runtime, WeightsError
from vader.sdk import Place, first_line
from vader_rewards import pixels, weights
from vader_rewards.holding import JudgeOptions
from vader_rewards.judge import Judge

T = TypeVar("T")
_HELD: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, build: Callable[[], T]) -> T:
    """The living object of that key, or a new one; it lives as long as somebody holds it."""
    found: T | None = _HELD.get(key)
    if found is None:
        found = _HELD[key] = build()
    return found


def outlined(key: Hashable, runtime: Runtime, build: Callable[[], T]) -> T:
    """As :func:`shared`, for networks without weights: those of one estimate, whose components are given one runtime.

    Args:
        key: see :func:`shared`.
        runtime: of the estimate.
        build: makes it.
    """
    made: Any = shared(("outlined", id(runtime), key), build)
    made.outlined_for = runtime  # lives as long, so that no other runtime has its id
    return cast(T, made)


def judge(key: Hashable, build: Callable[[], nn.Module], options: JudgeOptions, runtime: Runtime) -> Judge:
    """The shared judge of a large network, on its device or, with ``offload``, on the CPU.

    Args:
        key: names its weights, and whatever else decides its numbers.
        build: loads them, frozen, on the CPU.
        options: how it is held.
        runtime: device and dtype.
    """
    quantization = repr(getattr(options, "quantization", None))
    whole = (key, options.offload, str(runtime.device), runtime.dtype, quantization)
    return shared(whole, lambda: _held(build(), options, runtime)).hold(options)


def placed(network: nn.Module, options: JudgeOptions, runtime: Runtime, place: Place) -> Judge:
    """A judge whose network is on the meta device."""
    home, away = _home(options, runtime)
    return Judge(place(network, home), runtime.device, away=away).hold(options)


def _held(network: nn.Module, options: JudgeOptions, runtime: Runtime) -> Judge:
    """A judge of a network that is on the CPU."""
    home, away = _home(options, runtime)
    return Judge(network if away else network.to(home), runtime.device, away=away)


def _home(options: JudgeOptions, runtime: Runtime) -> tuple[torch.device, bool]:
    """Where a network lives, and whether that is not where it works."""
    away = options.offload and runtime.device.type != "cpu"
    return (torch.device("cpu") if away else runtime.device), away


class ClipVision:
    """The image half of a CLIP of transformers (Radford et al. 2021).

    Args:
        judge: of a ``CLIPVisionModelWithProjection``.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.size: int = self.network.config.image_size
        self.width: int = self.network.config.projection_dim

    @property
    def network(self) -> Any:
        """What the judge holds."""
        return self.judge.network

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised pixels ``(n 3 size size)`` -> unit features ``(n width)`` of float32 or wider."""
        features: Tensor = self.network(pixel_values=images.to(self.network.dtype)).image_embeds
        return functional.normalize(features.to(pixels.wide(features.dtype)), dim=-1)

    def prepare(self, images: Tensor, how: str) -> Tensor:
        """Images ``(n 3 h w)`` in [0, 1] -> normalised pixels.

        ``official`` keeps the aspect (bicubic, middle square), as CLIP's own processor does but for PIL's
        rounding and clamping to 8 bits after each pass; ``reference`` squeezes to a square (bilinear), as VADER does.
        """
        if how == "official":
            images = pixels.crop_of_short_side(images, self.size)
        else:
            images = pixels.resize(images, (self.size, self.size), "bilinear")
        return pixels.normalise(images, pixels.CLIP_MEAN, pixels.CLIP_STD)


def clip_vision(name: str, revision: str | None, options: JudgeOptions, runtime: Runtime) -> ClipVision:
    """The shared image tower of a CLIP.

    Args:
        name: hub id or folder.
        revision: on the hub.
        options: how it is held.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if the weights cannot be loaded.
    """

    def build() -> ClipVision:
        from transformers import CLIPVisionModelWithProjection

        source = weights.folder(name, revision)
        network = weights.model(CLIPVisionModelWithProjection, source, name, runtime.dtype)
        return ClipVision(_held(network, options, runtime))

    tower = shared(("clip_vision", name, revision, str(runtime.device), runtime.dtype, options.offload), build)
    tower.judge.hold(options)
    return tower


class OpenClip:
    """A CLIP of open_clip, both halves.

    Args:
        judge: of a network as ``open_clip.create_model`` gives it.
        tokenizer: texts -> ids ``(n context)``.
    """

    def __init__(self, judge: Judge, tokenizer: Callable[[Sequence[str]], Tensor]) -> None:
        self.judge, self.tokenizer = judge, tokenizer
        self.preprocess: dict[str, Any] = dict(self.network.visual.preprocess_cfg)
        self._dtype = judge.dtype

    @property
    def network(self) -> Any:
        """What the judge holds."""
        return self.judge.network

    @property
    def size(self) -> int:
        """Side of the square images it takes."""
        size = self.preprocess["size"]
        return int(size if isinstance(size, int) else size[0])

    def images(self, images: Tensor) -> Tensor:
        """Normalised pixels ``(n 3 size size)`` -> unit features ``(n d)``."""
        return self._unit(self.network.encode_image(images.to(self._dtype)))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features ``(n d)``, without gradient."""
        tokens = self.tokenizer(list(texts)).to(next(self.network.parameters()).device)
        return self._unit(self.network.encode_text(tokens))

    def cut_off(self, text: str) -> str:
        """The end of a text that is not read."""
        from open_clip.tokenizer import HFTokenizer

        from vader import sdk

        words: Any = self.tokenizer
        if isinstance(words, HFTokenizer):
            return sdk.beyond(words.tokenizer, text, words.context_length)
        return sdk.beyond_room(text, words.context_length - 2, words.encode, words.decode)

    def normalised(self, images: Tensor) -> Tensor:
        """With the mean and deviation that the model was trained with."""
        return pixels.normalise(images, self.preprocess["mean"], self.preprocess["std"])

    def official(self, images: Tensor) -> Tensor:
        """Images ``(n 3 h w)`` in [0, 1] -> normalised pixels, as open_clip's own transform does."""
        how, size = self.preprocess["resize_mode"], self.size
        mode: pixels.Mode = "bilinear" if self.preprocess["interpolation"] == "bilinear" else "bicubic"
        if how == "squash":
            images = pixels.resize(images, (size, size), mode).clamp(0, 1)
        elif how == "longest":
            images = pixels.fit_inside(images, size, mode).clamp(0, 1)
        else:
            images = pixels.crop_of_short_side(images, size, mode, nearest=True)
        return self.normalised(images)

    @staticmethod
    def _unit(features: Tensor) -> Tensor:
        return functional.normalize(features.to(pixels.wide(features.dtype)), dim=-1)


def open_clip(architecture: str, source: str | Path | None, options: JudgeOptions, runtime: Runtime) -> OpenClip:
    """The shared model of open_clip.

    Args:
        architecture: one of open_clip's names, ``hf-hub:owner/name``, or ``local-dir:FOLDER``.
        source: file of weights, or name of published ones; None with a prefix, whose own are taken.
        options: how it is held.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if architecture or weights cannot be found or loaded.
    """

    def build() -> OpenClip:
        import open_clip as library

        published = None if isinstance(source, Path) else source
        tensors = weights.state(source) if isinstance(source, Path) else None
        try:
            with torch.random.fork_rng(devices=[]):  # its first weights are random
                network = library.create_model(
                    architecture,
                    pretrained=published,
                    load_weights=tensors is None,
                    pretrained_text=False,
                    require_pretrained=tensors is None,
                )
            tokenizer = library.get_tokenizer(architecture)
        except Exception as error:  # open_clip and the hub client raise errors of many kinds
            what = f"{architecture} with weights {published}" if published else architecture
            raise WeightsError(
                f"open_clip cannot give {what}: {first_line(error)}. Expected a pair of "
                "`open_clip.list_pretrained()` (downloaded from the hub on first use), hf-hub:owner/name, or a folder "
                "with open_clip_config.json; without a connection, a local file or folder."
            ) from error
        if tensors is not None:
            assert isinstance(source, Path)
            weights.fill(network, tensors, source, f"open_clip's {architecture}")
        frozen: nn.Module = network.requires_grad_(False).eval().to(runtime.dtype)
        return OpenClip(_held(frozen, options, runtime), tokenizer)

    key = ("open_clip", architecture, str(source), str(runtime.device), runtime.dtype, options.offload)
    tower = shared(key, build)
    tower.judge.hold(options)
    return tower
