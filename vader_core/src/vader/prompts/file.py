"""Prompts from a file; in a text file one a line, `#` comments, and weights."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from vader.errors import cut
from vader.paths import read_limited, user_path
from vader.prompts import draw_weighted
from vader.protocols import Prompt
from vader.spec import Options

_WEIGHTED = re.compile(r"\[\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\]\s*(.*)", re.DOTALL)
_BYTES = 64 * 2**20
"""Most bytes of a prompt file."""


class FileOptions(Options):
    """Options of :class:`FilePrompts`."""

    path: str = Field(
        min_length=1,
        description="Text file with one prompt a line (# begins a comment; [3] a fox is drawn 3 times as often), or "
        ".yaml, .json, .jsonl, .csv or .tsv whose rows have text, and may have image (relative to the file), weight, "
        "metadata.",
    )
    column: str | None = Field(
        None,
        min_length=1,
        description="Field or column that holds the prompts. Null: text, prompt, prompt_en or caption.",
    )


class FilePrompts:
    """Draws from the prompts of a file, each as often as its weight says.

    Raises:
        ValueError: the file cannot be read, holds no prompt, or a row is wrong: a weight, or an image.
    """

    Options = FileOptions

    def __init__(self, options: FileOptions) -> None:
        from vader.prompts.rows import read_rows

        self._rows = read_rows(Path(options.path), options.column)

    def held(self) -> Sequence[Prompt]:
        """See :class:`vader.protocols.HoldsPrompts`."""
        return self._rows.prompts

    def notices(self) -> Sequence[str]:
        """See :class:`vader.protocols.GivesNotices`."""
        return self._rows.notices

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.protocols.PromptSource`."""
        return draw_weighted(self._rows.prompts, self._rows.weights, n, rng)


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
    return list(read_lines(path).found)


@dataclass(frozen=True)
class Lines:
    """The prompts of a text file with their weights, and what a user should know of how it was read."""

    found: tuple[tuple[str, float], ...]
    notices: tuple[str, ...]


def read_lines(path: Path) -> Lines:
    """The prompts of a text file. Lines end at a line feed; other separators may stand inside a prompt.

    Raises:
        ValueError: see :class:`FilePrompts`; or it holds something else than lines of text.
    """
    text, name = read_text(path), f"the prompt file {cut(str(path))}"
    _require_lines(text, name)
    stripped = [(number, line.strip(" \t\r")) for number, line in enumerate(text.split("\n"), 1)]
    filled = [(number, line) for number, line in stripped if line]
    wanted = [(number, line) for number, line in filled if not line.startswith("#")]
    if not wanted:
        raise ValueError(f"{name} holds no prompt. Add at least one line that is not a comment.")
    found = tuple(_weighted(line, f"line {number} of {name}") for number, line in wanted)
    return Lines(found, tuple(_notices(name, found, wanted, [line for _, line in filled if line.startswith("#")])))


def _notices(
    name: str, found: Sequence[tuple[str, float]], wanted: Sequence[tuple[int, str]], comments: Sequence[str]
) -> Iterable[str]:
    """Lines that are no prompt, and numbers in brackets that are no part of one."""
    if comments:
        count = "1 line that begins" if len(comments) == 1 else f"{len(comments)} lines that begin"
        yield f"{name}: {count} with # left out as a comment, the first {cut(comments[0])}."
    weighted = [(weight, text) for (text, weight), (_, line) in zip(found, wanted, strict=True) if text != line]
    if weighted:
        weight, text = max(weighted)
        count = "1 number in brackets is a weight" if len(weighted) == 1 else f"{len(weighted)} numbers are weights"
        begins = f"[1] [{weight:g}] {cut(text, plain=True)}"
        yield (
            f"{name}: {count}; {cut(text)} is drawn {weight:g} times as often as a line without. A prompt that begins "
            f"with such a number is written {begins}."
        )


_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_HEADER = re.compile(
    r'"?(text|prompt|prompt_en|caption|weight|id|index)"?\s*[,\t]|[^\n]*[,\t]\s*"?(prompt|caption)"?\s*$', re.I
)
_MARKED = ("<!doctype", "<html", "<?xml", "{\\rtf", "%pdf-", "version https://git-lfs")


def _require_lines(text: str, name: str) -> None:
    """A text is no other kind of file.

    Raises:
        ValueError: it is, which is said with the name that such a file must have.
    """
    begin = text.lstrip()
    first = begin.partition("\n")[0]
    control = _CONTROL.search(text)
    if control is not None:
        raise ValueError(f"{name} is no text: it holds {control[0]!r}. Expected UTF-8 text, one prompt a line.")
    if first[:40].lower().startswith(_MARKED):
        fix = "Run 'git lfs pull'." if first.startswith("version") else "Expected plain text, one prompt a line."
        raise ValueError(f"{name} begins with {cut(first[:40])}, which is no prompt. {fix}")
    lines = [line.strip() for line in begin.split("\n") if line.strip()]
    kind = None
    if begin[:1] in ("[", "{") and _is_json(begin):
        kind = "JSON, and its name should end in .json"
    elif begin[:1] in ("[", "{") and all(map(_is_json, lines[:20])) and not all(map(_WEIGHTED.fullmatch, lines)):
        kind = "JSON lines, and its name should end in .jsonl"
    elif _HEADER.match(first) and len(lines) > 1 and all(set(line) & {",", "\t"} for line in lines[:20]):
        kind = f"a table, and its name should end in {'.tsv' if chr(9) in first else '.csv'}"
    elif len(lines) > 1 and all(line.startswith("- ") or line == "-" for line in lines):
        kind = "a YAML list, and its name should end in .yaml"
    if kind is not None:
        raise ValueError(f"{name} holds {kind}: its lines are no prompts as they stand.")


def _is_json(text: str) -> bool:
    """Whether it is a JSON object, or a list of anything but one number, which is a weight."""
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return False
    numbers = isinstance(held, list) and len(held) == 1 and isinstance(held[0], int | float)
    return isinstance(held, dict | list) and not numbers


def read_text(path: Path) -> str:
    """The text of a prompt file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return read_limited(user_path(path), _BYTES)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise ValueError(
            f"cannot read the prompt file {cut(str(path))}: {reason}. Expected UTF-8 text, one prompt a line."
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
    flat = (re.sub(r"[ \t]*[\r\n]+[ \t]*", " ", text).strip(" \t\r") for text in texts)
    return [f"[1] {text}" if text.startswith("#") or _WEIGHTED.fullmatch(text) else text for text in flat]
