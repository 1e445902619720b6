"""A text to be read in the frames, with real weights from an ordinary package: no hub needed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from vader import Options, Prompt, Runtime, SpecError
from vader.sdk import Problem
from vader_rewards.extras import packaged, require

if TYPE_CHECKING:
    from torch import Tensor

HEIGHT, WIDTH = 48, 320
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)")


class OcrTextOptions(Options):
    """Options of :class:`OcrText`."""

    text: str | None = Field(
        None,
        min_length=1,
        description="The wanted text. Null: each prompt's metadata `text`, or what it has in quotes, as in a sign that "
        'says "OPEN".',
    )
    region: tuple[float, float, float, float] = Field(
        (0.0, 0.0, 1.0, 1.0),
        description="Top, left, bottom, right of the line of text, as shares of the frame.",
    )
    antialias: bool = Field(
        True, description="Smooth before shrinking, so that every pixel gets a gradient. False: as RapidOCR does."
    )

    @field_validator("region")
    @classmethod
    def _ordered(cls, region: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        top, left, bottom, right = region
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ValueError(f"found {region}; expected 0 <= top < bottom <= 1 and 0 <= left < right <= 1.")
        return region


class OcrText:
    """Log-probability that a frame reads as the wanted text, mean over frames: minus the CTC loss, at most 0.

    The frame, or its `region`, is taken as one line of text. In float32 or wider, whatever the run's precision.

    Args:
        options: which text, and where.
        runtime: device and dtype.

    Raises:
        vader.RegistryError: if rapidocr or onnx2torch is not installed.
        vader.WeightsError: if the network's file is damaged.
        vader.SpecError: if the option's text has a letter that the network does not know.

    Source: the recognition network of PP-OCRv6 under the CTC loss (Graves et al. 2006).
    """

    Options = OcrTextOptions
    differentiable: ClassVar[bool] = True
    needs_prompt: ClassVar[bool] = True

    def __init__(self, options: OcrTextOptions, runtime: Runtime) -> None:
        require("ocr_text", "ocr", "rapidocr", "onnx2torch")
        from vader_rewards import pixels
        from vader_rewards.converted import load_onnx

        path = packaged("rapidocr", "models", "PP-OCRv6_rec_small.onnx")
        self._dtype = pixels.wide(runtime.dtype)
        self._network, metadata = load_onnx(path, runtime.device, self._dtype)
        letters = [*metadata["character"].rstrip("\n").split("\n"), " "]
        self._numbers = {letter: number for number, letter in enumerate(letters, start=1)}
        self._options = options
        if options.text is not None:
            self._encode(options.text)

    def score(self, frames: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] and ``b`` prompts -> ``(b,)``.

        Raises:
            vader.SpecError: if there is no text to look for, or it cannot be read.
        """
        import torch
        from torch.nn import functional

        from vader_rewards import pixels

        texts = [self._encode(self.wanted(prompt)) for prompt in prompts for _ in range(frames.shape[1])]
        logs = self._network(self.lines(frames).to(self._dtype)).log_softmax(-1).transpose(0, 1)
        steps = logs.shape[0]
        for text in texts:
            if (least := len(text) + sum(a == b for a, b in pairwise(text))) > steps:
                raise self._refuse(f"a text needs {least} places, the line has {steps}. Take a shorter one.")
        lengths = torch.tensor([len(text) for text in texts], device=logs.device)
        targets = torch.tensor([number for text in texts for number in text], device=logs.device)
        loss = functional.ctc_loss(logs, targets, torch.full_like(lengths, steps), lengths, reduction="none")
        return pixels.per_clip(-loss, frames)

    def read(self, frames: Tensor) -> list[str]:
        """What the network reads in each frame, by the likeliest letter at each place.

        Args:
            frames: ``(b f 3 h w)`` in [0, 1].

        Returns:
            ``b * f`` texts.
        """
        import torch

        letters = {number: letter for letter, number in self._numbers.items()}
        with torch.no_grad():
            likeliest = self._network(self.lines(frames).to(self._dtype)).argmax(-1)
        return ["".join(letters[n] for n in torch.unique_consecutive(row).tolist() if n != 0) for row in likeliest]

    def lines(self, frames: Tensor) -> Tensor:
        """The network's input, ``(b*f 3 48 w)`` in [-1, 1]: height 48, aspect kept, grey to the right up to 320.

        Channels are in the order blue, green, red.
        """
        from torch.nn import functional

        from vader_rewards import pixels

        images = pixels.images(frames)
        height, width = images.shape[-2:]
        top, left, bottom, right = self._options.region
        rows = slice(math.floor(top * height), max(math.ceil(bottom * height), 1))
        images = images[..., rows, math.floor(left * width) : max(math.ceil(right * width), 1)]
        across = math.ceil(HEIGHT * images.shape[-1] / images.shape[-2])
        images = pixels.resize(images, (HEIGHT, across), "bilinear", antialias=self._options.antialias)
        return functional.pad(images.flip(1) * 2 - 1, (0, max(WIDTH - across, 0)))

    def wanted(self, prompt: Prompt) -> str:
        """The text that a prompt asks for.

        Raises:
            vader.SpecError: if it names none.
        """
        if self._options.text is not None:
            return self._options.text
        if "text" in prompt.metadata:
            return str(prompt.metadata["text"])
        quoted = _QUOTED.search(prompt.text)
        if quoted is None:
            raise self._refuse(
                f'no text to look for in prompt {prompt.text!r}. Put it in quotes, as in a sign that says "OPEN", or '
                "set the option `text`."
            )
        return next(group for group in quoted.groups() if group)

    def _encode(self, text: str) -> list[int]:
        unknown = sorted({letter for letter in text if letter not in self._numbers})
        if unknown:
            raise self._refuse(f"{text!r} has letters that the network cannot read: {' '.join(map(repr, unknown))}.")
        return [self._numbers[letter] for letter in text]

    def _refuse(self, message: str) -> SpecError:
        return SpecError([Problem("rewards", f"ocr_text: {message}")])
