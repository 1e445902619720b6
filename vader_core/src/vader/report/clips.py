"""Clips, put into the report as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vader.report.comparison import Comparison
from vader.report.numbers import plain, signed
from vader.report.reading import RunData
from vader.runs.events import ClipSize, ValidationClip
from vader.runs.folder import written_size

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
    image: Media | None = None
    """That the prompt gave."""


@dataclass(frozen=True)
class Gallery:
    """The cards that are shown, and how many did not fit."""

    cards: tuple[Card, ...]
    left_out: int

    @property
    def wide(self) -> bool:
        """Whether the clips need large cards."""
        return any(not one.tiny for card in self.cards for one in card.media)


def gallery(run: RunData, comparison: Comparison | None) -> Gallery:
    """Cards for every clip that was written, in order, up to the size budget."""
    if comparison is None:
        return Gallery((), 0)
    cards: list[Card] = []
    left_out, spent = 0, 0
    size = comparison.before.size or size_asked_for(run)
    rows: Sequence[tuple[ValidationClip, ...]] = comparison.pairs or [(clip,) for clip in comparison.before.clips]
    for clips in rows:
        paths = _paths(run, comparison, clips)
        if not paths:
            continue
        image = _image(run, comparison, clips[0])
        spent += sum(path.stat().st_size for path in [*paths.values(), *([image] if image else [])])
        if spent > BUDGET:
            left_out += 1
            continue
        shown = media("given image", image, None) if image is not None else None
        embedded = tuple(media(label, path, size) for label, path in paths.items())
        cards.append(Card(clips[0].prompt, clips[0].seed, embedded, _lines(clips), shown))
    return Gallery(tuple(cards), left_out)


def _paths(run: RunData, comparison: Comparison, clips: tuple[ValidationClip, ...]) -> dict[str, Path]:
    """Files by label; empty unless the whole pair is there."""
    validations = [comparison.before, *([comparison.after] if comparison.after else [])]
    names = ["before", "after"] if comparison.after else ["only"]
    paths: dict[str, Path] = {}
    for name, validation, clip in zip(names, validations, clips, strict=True):
        path = run.clip_path(validation.step, clip.file or "")
        if path is None or path.suffix.lower() not in TYPES:
            return {}
        paths[f"step {validation.step}" if name == "only" else f"{name} \N{MIDDLE DOT} step {validation.step}"] = path
    return paths


def _image(run: RunData, comparison: Comparison, clip: ValidationClip) -> Path | None:
    """The image that a clip's prompt gave."""
    path = run.clip_path(comparison.before.step, clip.image or "")
    return path if path is not None and path.suffix.lower() in TYPES else None


def size_asked_for(run: RunData) -> ClipSize | None:
    """The clips' size in a folder that does not tell it, from its spec, if that says one."""
    video = run.spec.video if run.spec else None
    if video is None or video.frames is None or video.height is None or video.width is None:
        return None
    return written_size(video.frames, video.height, video.width, video.fps or 8.0)


def media(label: str, path: Path, size: ClipSize | None) -> Media:
    """A clip's file, embedded."""
    data = path.read_bytes()
    kind = TYPES[path.suffix.lower()]
    width, height = (size.width, size.height) if size is not None and kind == "video/mp4" else (None, None)
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
