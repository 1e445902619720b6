"""What encodes the prompts of a pipeline, loaded when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from vader.protocols import Branch, Conditioning, Runtime, Video
from vader.weights.text_limit import beyond

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vader.backbones.parts import Parts
    from vader.weights.meta_init import Place


class TextSide:
    """Tokenizers and encoders of a pipeline, and the branch of the negative prompt, which is encoded once.

    Args:
        parts: gives them.
        runtime: of the run; encoders are held in its dtype, on its device or, if so asked, on the CPU.
        place: puts a module on a device.
    """

    pipeline: Any

    def __init__(self, parts: Parts, runtime: Runtime, place: Place) -> None:
        self._parts, self._runtime, self._place = parts, runtime, place
        self.encoders: dict[str, Any] = {}
        self._negative: Branch | None = None
        self.tokenizers = {part: parts.tokenizer(part) for part in parts.family.tokenizers}
        self.processors = {part: parts.processor(part) for part in parts.family.processors}

    def unloaded(self) -> dict[str, Any]:
        """What the pipeline is built with: tokenizers and processors, and nothing where the encoders will be."""
        return {**self.tokenizers, **self.processors, **dict.fromkeys(self._parts.family.encoders)}

    def load(self) -> dict[str, Any]:
        """The encoders, of texts and of images.

        Raises:
            WeightsError: their files are of another network.
        """
        offload = self._parts.options.text_encoder_offload == "cpu"
        home: torch.device | str = "cpu" if offload else self._runtime.device
        for part in self._parts.family.encoders:
            if part not in self.encoders:
                self.encoders[part] = self._place(self._parts.module(part, self._runtime.dtype), home)
                setattr(self.pipeline, part, self.encoders[part])
        return self.encoders

    def release(self, denoiser: nn.Module) -> None:
        """Let the encoders go, but for those that are part of the denoiser; :meth:`load` loads them again."""
        taken = set(denoiser.modules())
        for part in [part for part, encoder in self.encoders.items() if encoder not in taken]:
            del self.encoders[part]
            setattr(self.pipeline, part, None)

    def key(self, video: Video) -> str:
        """Names all that decides conditioning besides the prompt: model, files, options, precision, versions.

        Args:
            video: of the clip, which decides how an image is encoded.
        """
        parts, options = self._parts, self._parts.options
        shape, seen = ([video.frames, video.height, video.width], ["vae"]) if parts.family.images else ([], [])
        files = sorted(
            (path.relative_to(parts.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
            for part in (*parts.family.encoders, *self.tokenizers, *self.processors, *seen)
            for path in (parts.folder / part).rglob("*")
            if path.is_file()
        )
        said = options.model_dump(
            mode="json", exclude={"text_encoder_offload", "attention", "reward_decoder", "quantize", "block_offload"}
        )
        home = "cpu" if options.text_encoder_offload == "cpu" else self._runtime.device.type
        versions = {name: version(name) for name in ("torch", "transformers", "diffusers", "tokenizers")}
        whole = [parts.family.pipeline, str(parts.folder), files, said, home, str(self._runtime.dtype), versions, shape]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32]

    def encode(self, texts: Sequence[str], images: Branch) -> Conditioning:
        """Conditioning of ``b`` texts, on the run's device. The caller owns grad mode.

        Args:
            texts: of the prompts.
            images: what their images add to both branches.
        """
        import torch

        self.load()
        if self._negative is None:
            with torch.no_grad():
                self._negative = self._branch([self._parts.options.negative_prompt])
        negative = {name: row.expand(len(texts), *row.shape[1:]) for name, row in self._negative.items()}
        return Conditioning({**self._branch(texts), **images}, {**negative, **images})

    def cut_off(self, text: str) -> str:
        """The end of a text that its first encoder is not given."""
        tokenizer, family = next(iter(self.tokenizers.values()), None), self._parts.family
        if tokenizer is None:
            return ""
        said = getattr(self._parts.options, "max_sequence_length", None)
        return beyond(tokenizer, text, said or min(tokenizer.model_max_length, family.text_tokens or 10**6))

    def _branch(self, texts: Sequence[str]) -> Branch:
        found = self._parts.family.encode(self.pipeline, texts, self._parts.options)
        return {name: tensor.to(self._runtime.device) for name, tensor in found.items()}
