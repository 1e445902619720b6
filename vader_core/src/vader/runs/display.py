"""How results show themselves in a notebook: HTML with the clips inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from vader.runs.events import RunResult, Validation, ValidationClip
from vader.runs.folder import RunFolder, own_file

MOST_SHOWN, _PAIRS = 16, 4
"""Generated clips, and pairs of a run's, that a notebook shows."""
_BYTES = 16 * 2**20
"""Of clips that one result carries into a notebook."""


def clips_html(shown: Sequence[str], count: int) -> str:
    """Clips side by side, and how many more there are.

    Args:
        shown: HTML of those that are shown.
        count: of all.
    """
    more = f"<p>and {count - len(shown)} more</p>" if count > len(shown) else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(shown)}</div>{more}'


def result_html(result: RunResult) -> str:
    """A run's scores before and after, its first clips, and where its report is."""
    folder = RunFolder(result.folder)
    done = f"stopped by {escape(result.stopped)} after" if result.stopped is not None else "after"
    parts = [f"<p><b>{escape(str(result.folder))}</b>, {done} {result.step} optimizer steps</p>"]
    shown = [one for one in result.validations if one.step == result.adapter_step]
    last = (shown or list(result.validations))[-1:]
    validations = [*result.validations[:1], *last] if result.validations[:1] != tuple(last) else last
    if validations:
        parts.append(_table(validations))
        pairs = list(_pairs(folder, validations))
        parts.append(clips_html(pairs, len(pairs)))
    elif result.metrics:
        parts.append(f"<p>reward {result.metrics.get('reward', float('nan')):.4g}, never validated</p>")
    parts.append(f"<p>report: <code>{escape(str(folder.report))}</code></p>")
    return "".join(parts)


def _table(validations: Sequence[Validation]) -> str:
    """Mean scores, a column a validation."""
    heads = "".join(f"<th>step {one.step}</th>" for one in validations)
    rows = "".join(
        f"<tr><th>{escape(key)}</th>{''.join(f'<td>{one.mean(key):.4g}</td>' for one in validations)}</tr>"
        for key in validations[-1].keys
    )
    clips = len(validations[-1].clips)
    return f"<table><tr><th>mean of {clips} clip{'s' * (clips != 1)}</th>{heads}</tr>{rows}</table>"


def _pairs(folder: RunFolder, validations: Sequence[Validation]) -> Iterable[str]:
    """The first clips that were written, each at every one of the validations."""
    spent = 0
    for clips in list(zip(*(one.clips for one in validations), strict=False))[:_PAIRS]:
        files = [_file(folder, one.step, clip) for one, clip in zip(validations, clips, strict=True)]
        found = [file for file in files if file is not None]
        spent += sum(file.stat().st_size for file in found)
        if len(found) == len(files) and spent <= _BYTES:
            labels = [f"step {one.step}" for one in validations]
            yield figure(
                [(label, file.read_bytes()) for label, file in zip(labels, found, strict=True)],
                escape(clips[-1].prompt),
            )


def _file(folder: RunFolder, step: int, clip: ValidationClip) -> Path | None:
    path = folder.validation(step) / (clip.file or "")
    return path if path.suffix == ".mp4" and own_file(folder.path, path) else None


def figure(videos: Sequence[tuple[str, bytes]], caption: str) -> str:
    """Videos beside each other, with their labels, above a caption; label and caption are HTML."""
    shown = "".join(
        f'<span style="display:inline-block;margin-right:6px">{label}<video autoplay loop muted playsinline '
        f'style="display:block;width:160px" src="data:video/mp4;base64,{base64.b64encode(data).decode("ascii")}">'
        "</video></span>"
        for label, data in videos
    )
    return f'<figure style="margin:0;max-width:340px">{shown}<figcaption>{caption}</figcaption></figure>'
