"""Rewards that compare frames with the prompt: HPSv2, PickScore, and plain CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vader import Options, Prompt, Runtime
from vader_rewards.extras import require

if TYPE_CHECKING:
    from torch import Tensor

HPS_FILES = {"v2.0": "xswu/HPSv2:HPS_v2_compressed.pt", "v2.1": "xswu/HPSv2:HPS_v2.1_compressed.pt"}


class HpsOptions(Options):
    """Options of :class:`Hps`."""

    version: Literal["v2.0", "v2.1"] = Field("v2.1", description="Which published weights, when `weights` is null.")
    weights: str | None = Field(
        None,
        min_length=1,
        description="Path of HPS_v2.1_compressed.pt, owner/name:file on the hub, or a folder with "
        "open_clip_config.json. Null: the published weights of `version`.",
    )
    preprocess: Literal["official", "reference"] = Field(
        "official",
        description="official: as hpsv2 (aspect kept, black bars, bicubic). reference: as VADER (squeezed to a square, "
        "bilinear).",
    )


class PickScoreOptions(Options):
    """Options of :class:`PickScore`."""

    weights: str = Field(
        "yuvalkirstain/PickScore_v1",
        min_length=1,
        description="CLIP model in the layout of transformers: a hub id (owner/name) or a local folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub. Null: main.")
    tokenizer: str = Field(
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        min_length=1,
        description="Where its tokenizer comes from: a hub id or a local folder.",
    )


class ClipTextOptions(Options):
    """Options of :class:`ClipText`."""

    model: str = Field(
        "ViT-B-32",
        min_length=1,
        description="Architecture: a name of open_clip, hf-hub:owner/name, or a folder with open_clip_config.json.",
    )
    weights: str | None = Field(
        "laion2b_s34b_b79k",
        min_length=1,
        description="Published weights of that architecture by name, or a file. Not used with hf-hub: or a folder.",
    )

    @model_validator(mode="after")
    def _complete(self) -> ClipTextOptions:
        if self.weights is None and not self.model.startswith("hf-hub:") and not Path(self.model).expanduser().is_dir():
            raise ValueError(
                f"weights is null, but model {self.model!r} is neither hf-hub:owner/name nor a folder. Name published "
                "weights of that architecture (`open_clip.list_pretrained()`), or a local file."
            )
        return self


def _open_clip(model: str, weights: str | None, runtime: Runtime) -> Any:
    """The tower for what a user wrote: a folder, ``hf-hub:``, or an architecture with weights."""
    from vader_rewards import towers
    from vader_rewards.weights import file

    if Path(model).expanduser().is_dir():
        return towers.open_clip(f"local-dir:{Path(model).expanduser()}", None, runtime)
    if model.startswith("hf-hub:") or weights is None:
        return towers.open_clip(model, None, runtime)
    is_file = ":" in weights or Path(weights).suffix in (".pt", ".pth", ".bin", ".safetensors")
    return towers.open_clip(model, file(weights, "weights") if is_file else weights, runtime)


def _similarity(images: Tensor, texts: Tensor, frames: Tensor) -> Tensor:
    """Mean over frames of each clip's cosine with its own prompt: ``(b*f d)``, ``(b d)`` -> ``(b,)``."""
    from vader_rewards import pixels

    return (pixels.by_clip(images, frames) * texts[:, None]).sum(-1).mean(1).to(frames.dtype)


class Hps:
    """Human preference for a frame given the prompt, mean over frames; about 0.2 to 0.35.

    Args:
        options: which weights, and how frames are prepared.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if open_clip is not installed.
        vader.WeightsError: if the weights cannot be loaded.

    Source: HPSv2 (Wu et al. 2023, arXiv 2306.09341): the cosine of a fine-tuned CLIP ViT-H/14, without its scale; in
    VADER the loss is ``1 - score``.
    """

    Options = HpsOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: HpsOptions, runtime: Runtime) -> None:
        require("hps", "hps", "open_clip")
        name = options.weights or HPS_FILES[options.version]
        is_folder = Path(name).expanduser().is_dir()
        self._tower = _open_clip(name, None, runtime) if is_folder else self._published(name, runtime)
        self._how = options.preprocess

    @staticmethod
    def _published(name: str, runtime: Runtime) -> Any:
        from vader_rewards import towers
        from vader_rewards.weights import file

        return towers.open_clip("ViT-H-14", file(name, "weights"), runtime)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        from vader_rewards import pixels

        images, size = pixels.images(frames), self._tower.size
        if self._how == "official":
            images = pixels.fit_inside(images, size, "bicubic").clamp(0, 1)
        else:
            images = pixels.resize(images, (size, size), "bilinear")
        features = self._tower.images(self._tower.normalised(images))
        return _similarity(features, self._tower.texts([prompt.text for prompt in prompts]), frames)


class ClipText:
    """Cosine of frames and prompt under any CLIP of open_clip, mean over frames; in [-1, 1], in practice 0.1 to 0.4.

    Args:
        options: which model.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if open_clip is not installed.
        vader.WeightsError: if the model cannot be loaded.

    Source: CLIPScore (Hessel et al. 2021, arXiv 2104.08718) without its factor.
    """

    Options = ClipTextOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: ClipTextOptions, runtime: Runtime) -> None:
        require("clip_text", "clip", "open_clip")
        self._tower = _open_clip(options.model, options.weights, runtime)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        from vader_rewards import pixels

        features = self._tower.images(self._tower.official(pixels.images(frames)))
        return _similarity(features, self._tower.texts([prompt.text for prompt in prompts]), frames)


class PickScore:
    """Human preference for a frame given the prompt, mean over frames; about 18 to 24.

    Each clip is compared with its own prompt (the reference compares all with the first: REFERENCE.md, wrong 3). The
    processor of CLIP ViT-H is the reference's preprocessing too, so there is no option for it.

    Args:
        options: which weights.
        runtime: device and dtype.

    Raises:
        vader.WeightsError: if model or tokenizer cannot be loaded.

    Source: PickScore (Kirstain et al. 2023, arXiv 2305.01569): the scaled cosine of a fine-tuned CLIP ViT-H/14; in
    VADER the loss is ``|1 - score / 100|``.
    """

    Options = PickScoreOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: PickScoreOptions, runtime: Runtime) -> None:
        from transformers import CLIPModel

        from vader_rewards import weights

        self._tokenizer = weights.tokenizer(
            weights.folder(options.tokenizer, None, option="tokenizer", small=True), options.tokenizer
        )
        source = weights.folder(options.weights, options.revision)
        self._model = weights.model(CLIPModel, source, options.weights, runtime.dtype).to(runtime.device)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        from torch.nn import functional

        from vader_rewards import pixels
        from vader_rewards.towers import score_dtype

        size = self._model.config.vision_config.image_size
        images = pixels.center_crop(pixels.short_side(pixels.images(frames), size, "bicubic"), size)
        images = pixels.normalise(images, pixels.CLIP_MEAN, pixels.CLIP_STD).to(self._model.dtype)
        wide = score_dtype(self._model.dtype)
        embedded = self._model.get_image_features(pixel_values=images).pooler_output
        features = functional.normalize(embedded.to(wide), dim=-1)
        scale = self._model.logit_scale.to(wide).exp()
        score: Tensor = scale.to(frames.dtype) * _similarity(features, self._texts(prompts).to(wide), frames)
        return score

    def _texts(self, prompts: Sequence[Prompt]) -> Tensor:
        """Unit features ``(b d)``, without gradient."""
        import torch
        from torch.nn import functional

        from vader_rewards.towers import score_dtype

        tokens = self._tokenizer(
            [prompt.text for prompt in prompts], padding=True, truncation=True, max_length=77, return_tensors="pt"
        ).to(self._model.device)
        with torch.no_grad():
            embedded = self._model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
        return functional.normalize(embedded.to(score_dtype(embedded.dtype)), dim=-1)
