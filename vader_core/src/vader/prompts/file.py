"""Prompts from a file; in a text file one a line, `#` comments, and weights."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from vader.prompts import draw_weighted
from vader.protocols import Prompt
from vader.spec import Options

_WEIGHTED = re.compile(r"\[\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\]\s*(.*)")


class FileOptions(Options):
    """Options of :class:`FilePrompts`."""

    path: str = Field(
        min_length=1,
        description="Text file with one prompt a line (# begins a comment; [3] a fox is drawn 3 times as often), or "
        ".yaml, .jsonl or .csv whose rows have text, and may have image (relative to the file), weight, metadata.",
    )


class FilePrompts:
    """Draws from the prompts of a file, each as often as its weight says.

    Raises:
        ValueError: the file cannot be read, holds no prompt, or a row is wrong: a weight, or an image.
    """

    Options = FileOptions

    def __init__(self, options: FileOptions) -> None:
        from vader.prompts.rows import read_rows

        rows = read_rows(Path(options.path))
        self._prompts, self._weights = [prompt for prompt, _ in rows], [weight for _, weight in rows]

    def held(self) -> Sequence[Prompt]:
        """See :class:`vader.protocols.HoldsPrompts`."""
        return self._prompts

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.protocols.PromptSource`."""
        return draw_weighted(self._prompts, self._weights, n, rng)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, without blank lines, comments and weights.

    Raises:
        ValueError: see :class:`FilePrompts`.
    """
    return [text for text, _ in read_weighted(path)]


def read_weighted(path: Path) -> list[tuple[str, float]]:
    """The prompts of a file, each with its weight; 1 for a line that names none.

    Raises:
        ValueError: see :class:`FilePrompts`.
    """
    lines = read_text(path).splitlines()
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    wanted = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not wanted:
        raise ValueError(f"the prompt file {str(path)!r} holds no prompt. Add at least one line that is not a comment.")
    return [_weighted(line, f"line {number} of the prompt file {str(path)!r}") for number, line in wanted]


def read_text(path: Path) -> str:
    """The text of a prompt file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot read the prompt file {str(path)!r}: {reason}. Expected UTF-8 text, one prompt a line."
        ) from error


def _weighted(line: str, where: str) -> tuple[str, float]:
    match = _WEIGHTED.fullmatch(line)
    if match is None:
        return line, 1.0
    weight, text = float(match[1]), match[2]
    if not (math.isfinite(weight) and weight > 0):
        raise ValueError(f"{where} has the weight {match[1]}; expected a finite number above 0. Or delete the line.")
    if not text:
        raise ValueError(f"{where} has a weight and no prompt; expected a line such as [3] a fox.")
    return text, weight


def as_lines(texts: Iterable[str]) -> list[str]:
    """Lines that :func:`read_prompts` reads back as these texts; line breaks within a text become spaces."""
    flat = (" ".join(text.split()) for text in texts)
    return [f"[1] {text}" if text.startswith("#") or _WEIGHTED.fullmatch(text) else text for text in flat]
