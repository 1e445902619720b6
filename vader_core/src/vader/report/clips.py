"""Clips, put into the report as data URIs."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vader.report.comparison import Comparison
from vader.report.numbers import plain, signed
from vader.report.reading import RunData
from vader.runs.events import ValidationClip

TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".png": "image/png"}
BUDGET = 64 * 2**20
"""Bytes of clips that one report carries; the rest is named, not shown."""
TINY = 256
"""Clips less wide than this are enlarged without smoothing."""


@dataclass(frozen=True)
class Media:
    """One embedded clip."""

    label: str
    """``before`` or ``after``, with the optimizer step."""
    uri: str
    video: bool
    width: int | None
    height: int | None

    @property
    def tiny(self) -> bool:
        return self.width is None or self.width < TINY


@dataclass(frozen=True)
class ScoreLine:
    """A clip's score, before and after."""

    key: str
    before: str | None
    after: str | None
    difference: str | None
    rose: int


@dataclass(frozen=True)
class Card:
    """A prompt with its clips."""

    prompt: str
    seed: int
    media: tuple[Media, ...]
    scores: tuple[ScoreLine, ...]


@dataclass(frozen=True)
class Gallery:
    """The cards that are shown, and how many did not fit."""

    cards: tuple[Card, ...]
    left_out: int

    @property
    def wide(self) -> bool:
        """Whether the clips need large cards."""
        return any(not media.tiny for card in self.cards for media in card.media)


def gallery(run: RunData, comparison: Comparison | None) -> Gallery:
    """Cards for every clip that was written, in order, up to the size budget."""
    if comparison is None:
        return Gallery((), 0)
    cards: list[Card] = []
    left_out, spent = 0, 0
    rows: Sequence[tuple[ValidationClip, ...]] = comparison.pairs or [(clip,) for clip in comparison.before.clips]
    for clips in rows:
        paths = _paths(run, comparison, clips)
        if not paths:
            continue
        spent += sum(path.stat().st_size for path in paths.values())
        if spent > BUDGET:
            left_out += 1
            continue
        media = tuple(_media(label, path) for label, path in paths.items())
        cards.append(Card(clips[0].prompt, clips[0].seed, media, _lines(clips)))
    return Gallery(tuple(cards), left_out)


def _paths(run: RunData, comparison: Comparison, clips: tuple[ValidationClip, ...]) -> dict[str, Path]:
    """Files by label; empty unless the whole pair is there."""
    validations = [comparison.before, *([comparison.after] if comparison.after else [])]
    names = ["before", "after"] if comparison.after else ["only"]
    paths: dict[str, Path] = {}
    for name, validation, clip in zip(names, validations, clips, strict=True):
        path = run.clip_path(validation.step, clip.file or "")
        if not clip.file or path.suffix.lower() not in TYPES or not path.is_file():
            return {}
        paths[f"step {validation.step}" if name == "only" else f"{name} \N{MIDDLE DOT} step {validation.step}"] = path
    return paths


def _media(label: str, path: Path) -> Media:
    data = path.read_bytes()
    kind = TYPES[path.suffix.lower()]
    width, height = mp4_size(data) if kind == "video/mp4" else (None, None)
    uri = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Media(label, uri, kind.startswith("video/"), width, height)


def _lines(clips: tuple[ValidationClip, ...]) -> tuple[ScoreLine, ...]:
    before, after = clips[0].scores, clips[-1].scores if len(clips) > 1 else {}
    lines = []
    for key in dict.fromkeys([*before, *after]):
        a, b = before.get(key), after.get(key)
        difference = b - a if a is not None and b is not None else None
        whole = all(value is None or value.is_integer() for value in (a, b))
        places = 0 if whole else 2
        lines.append(
            ScoreLine(
                key,
                None if a is None else plain(a, places),
                None if b is None else plain(b, places),
                None if difference is None else signed(difference, places),
                0 if difference is None else (round(difference, places) > 0) - (round(difference, places) < 0),
            )
        )
    return tuple(lines)


def mp4_size(data: bytes) -> tuple[int | None, int | None]:
    """Width and height from the first track header of an MP4 file; (None, None) when there is none.

    Source: ISO/IEC 14496-12, 8.3.2: both are 16.16 fixed-point numbers, the last eight bytes of the ``tkhd`` box.
    """
    start = data.find(b"tkhd", max(data.find(b"moov"), 0))
    if start < 4:
        return None, None
    end = start - 4 + int.from_bytes(data[start - 4 : start], "big")
    if not start + 12 <= end <= len(data):
        return None, None
    width, height = struct.unpack(">II", data[end - 8 : end])
    return (width >> 16 or None), (height >> 16 or None)
