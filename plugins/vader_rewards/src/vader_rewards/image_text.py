"""Rewards that compare frames with the prompt: HPSv2, PickScore, and plain CLIP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vader import Options, Prompt, Runtime
from vader.sdk import user_path
from vader_rewards.extras import require
from vader_rewards.holding import FrameJudgeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from vader.sdk import Place
    from vader_rewards.judge import Judge

_TOKENS = 77
HPS_FILES = {"v2.0": "xswu/HPSv2:HPS_v2_compressed.pt", "v2.1": "xswu/HPSv2:HPS_v2.1_compressed.pt"}


class HpsWeights(Options):
    """Which weights of HPSv2, whoever computes with them."""

    version: Literal["v2.0", "v2.1"] = Field("v2.1", description="Which published weights, when `weights` is null.")
    weights: str | None = Field(
        None,
        min_length=1,
        description="Path of HPS_v2.1_compressed.pt, owner/name:file on the hub, or a folder with "
        "open_clip_config.json. Null: the published weights of `version`.",
    )


class HpsOptions(HpsWeights, FrameJudgeOptions):
    """Options of :class:`Hps`."""

    preprocess: Literal["official", "reference"] = Field(
        "official",
        description="official: as hpsv2 (aspect kept, black bars, bicubic). reference: as VADER (squeezed to a square, "
        "bilinear).",
    )


class PickScoreOptions(FrameJudgeOptions):
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


class ClipTextOptions(FrameJudgeOptions):
    """Options of :class:`ClipText`."""

    model: str = Field(
        "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        min_length=1,
        description="hf-hub:owner/name, a folder with open_clip_config.json, or a name of open_clip such as ViT-B-32.",
    )
    weights: str | None = Field(
        None,
        min_length=1,
        description="A file of weights for it or, for a name of open_clip, published weights by their name, such as "
        "openai. Null: the model's own.",
    )

    @model_validator(mode="after")
    def _complete(self) -> ClipTextOptions:
        if self.weights is None and not self.has_weights:
            raise ValueError(
                f"model {self.model!r} is neither hf-hub:owner/name nor a folder, so it has no weights of its own. Set "
                "`weights` to published ones (`open_clip.list_pretrained()`) or to a file."
            )
        return self

    @property
    def has_weights(self) -> bool:
        """Whether the model comes with weights."""
        return self.model.startswith("hf-hub:") or user_path(self.model).is_dir()


def _local(model: str) -> str:
    """A folder in the form that open_clip wants; anything else as it is."""
    folder = user_path(model)
    return f"local-dir:{folder}" if folder.is_dir() else model


def _similarity(
    judge: Judge,
    frames: Tensor,
    prompts: Sequence[Prompt],
    chunk: int,
    see: Callable[[Tensor], Tensor],
    read: Callable[[Sequence[str]], Tensor],
) -> Tensor:
    """Mean over frames of each clip's cosine with its own prompt.

    Args:
        judge: of the network.
        frames: ``(b f 3 h w)`` in [0, 1].
        prompts: of the ``b`` clips.
        chunk: frames judged at once.
        see: images ``(n 3 h w)`` -> features ``(n d)``, of unit length or that of the score's scale.
        read: ``n`` texts -> unit features ``(n d)``, without gradient.

    Returns:
        ``(b,)``.
    """
    import torch

    from vader_rewards import pixels

    def columns(rows: Tensor, which: slice) -> Tensor:
        clips = Counter(row // frames.shape[1] for row in range(which.start, which.stop))
        texts = read([prompts[clip].text for clip in clips])
        own = [text.expand(count, -1) for text, count in zip(texts.split(1), clips.values(), strict=True)]
        return (see(rows) * torch.cat(own)).sum(-1, keepdim=True)

    return pixels.per_clip(judge.score(columns, pixels.images(frames), chunk)[:, 0], frames)


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
        from vader_rewards import towers
        from vader_rewards.weights import file

        name = options.weights or HPS_FILES[options.version]
        is_folder = user_path(name).is_dir()
        if is_folder:
            self._tower = towers.open_clip(_local(name), None, options, runtime)
        else:
            self._tower = towers.open_clip("ViT-H-14", file(name, "weights"), options, runtime)
        self._options = options

    @classmethod
    def meta_init(cls, options: HpsOptions, runtime: Runtime, place: Place) -> Hps:
        """See :class:`vader.sdk.MetaBuildable`; without a folder it is a ViT-H/14, whatever its weights."""
        require("hps", "hps", "open_clip")
        from vader_rewards import meta_init

        reward = cls.__new__(cls)
        given = _local(options.weights or HPS_FILES[options.version])
        architecture = given if given.startswith("local-dir:") else "ViT-H-14"
        reward._tower, reward._options = meta_init.open_clip(architecture, given, options, runtime, place), options
        return reward

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        return self._tower.cut_off(text)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        tower = self._tower
        return _similarity(tower.judge, frames, prompts, self._options.chunk, self._see, tower.texts)

    def _see(self, images: Tensor) -> Tensor:
        """Images ``(n 3 h w)`` in [0, 1] -> unit features ``(n d)``."""
        from vader_rewards import pixels

        size = self._tower.size
        if self._options.preprocess == "official":
            images = pixels.fit_inside(images, size, "bicubic")  # hpsv2 does not clamp what bicubic overshoots
        else:
            images = pixels.resize(images, (size, size), "bilinear")
        return self._tower.images(self._tower.normalised(images))


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
        from vader_rewards import towers
        from vader_rewards.weights import file

        given = options.weights
        is_file = given is not None and (options.has_weights or Path(given).suffix or ":" in given)
        source = file(given, "weights") if given is not None and is_file else given
        self._tower = towers.open_clip(_local(options.model), source, options, runtime)
        self._chunk = options.chunk

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        return self._tower.cut_off(text)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        tower = self._tower
        return _similarity(
            tower.judge, frames, prompts, self._chunk, lambda images: tower.images(tower.official(images)), tower.texts
        )


class PickScore:
    """Human preference for a frame given the prompt, mean over frames; about 18 to 24.

    Each clip is compared with its own prompt (the reference compares all with the first: REFERENCE.md, wrong 3). The
    processor of CLIP ViT-H is the reference's preprocessing too, so there is no option for it. PIL's rounding and
    clamping between its two passes are left out (docs/rewards.md, Preprocessing, says how much that is).

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
        from vader_rewards import towers, weights

        tokenizer = weights.tokenizer(
            weights.folder(options.tokenizer, None, option="tokenizer", small=True), options.tokenizer
        )
        source = weights.folder(options.weights, options.revision)

        def build() -> Any:
            from transformers import CLIPModel

            return weights.model(CLIPModel, source, options.weights, runtime.dtype)

        self._set_up(options, towers.judge(("pickscore", str(source)), build, options, runtime), tokenizer)

    @classmethod
    def meta_init(cls, options: PickScoreOptions, runtime: Runtime, place: Place) -> PickScore:
        """See :class:`vader.sdk.MetaBuildable`."""
        from vader_rewards import meta_init, towers

        reward = cls.__new__(cls)
        network, tokenizer = meta_init.clip(options.weights, runtime)
        reward._set_up(options, towers.placed(network, options, runtime, place), tokenizer)
        return reward

    def _set_up(self, options: PickScoreOptions, judge: Judge, tokenizer: Any) -> None:
        self._judge, self._tokenizer, self._chunk = judge, tokenizer, options.chunk

    def cut_off(self, text: str) -> str:
        """See :class:`vader.sdk.CutsPrompts`."""
        from vader import sdk

        return sdk.beyond(self._tokenizer, text, _TOKENS)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``."""
        return _similarity(self._judge, frames, prompts, self._chunk, self._see, self._read)

    def _see(self, images: Tensor) -> Tensor:
        """Images ``(n 3 h w)`` in [0, 1] -> features ``(n d)`` of the length of the score's scale."""
        from torch.nn import functional

        from vader_rewards import pixels

        network: Any = self._judge.network
        size = network.config.vision_config.image_size
        images = pixels.center_crop(pixels.short_side(images, size, "bicubic"), size)
        images = pixels.normalise(images, pixels.CLIP_MEAN, pixels.CLIP_STD).to(network.dtype)
        wide = pixels.wide(network.dtype)
        embedded = network.get_image_features(pixel_values=images).pooler_output
        features: Tensor = network.logit_scale.to(wide).exp() * functional.normalize(embedded.to(wide), dim=-1)
        return features

    def _read(self, texts: Sequence[str]) -> Tensor:
        """Unit features ``(n d)``, without gradient."""
        import torch
        from torch.nn import functional

        from vader_rewards import pixels

        network: Any = self._judge.network
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(network.device)
        with torch.no_grad():
            embedded = network.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
        return functional.normalize(embedded.to(pixels.wide(embedded.dtype)), dim=-1)
