"""``metrics.jsonl``: a JSON object an optimizer step, in order. What is damaged costs its own line and no other."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vader.errors import RunFolderError
from vader.storage import sync, write_bytes

Record = Mapping[str, Any]
"""One line."""
QUERIES, FLOPS, ENERGY = "cost/reward_queries", "cost/flops", "cost/energy_joules"
"""What an optimizer step cost; see :mod:`vader.runs.cost`."""
ASIDE = "metrics.aside.jsonl"
"""Where lines go that a resumption cannot use: those that cannot be read, and those that it makes again."""


def append(path: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Add the line of an optimizer step; values that are not finite become null.

    Raises:
        RunFolderError: it cannot be written.
    """
    line = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
    except OSError as error:
        raise _unwritten(path, error) from error


def flush(path: Path) -> None:
    """Have what was appended on disk.

    Raises:
        RunFolderError: the system cannot.
    """
    try:
        with path.open("ab") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"cannot write {str(path)!r}: {error.strerror}. Make room, then resume the run.")


def read(path: Path) -> list[Record]:
    """The lines by step, each step once; those that cannot be read are left out.

    Where steps repeat, as after a resumption from an earlier checkpoint, the later lines count.
    """
    records = [record for line in _lines(path) if (record := _record(line)) is not None]
    if not records:
        return []
    before = [record for record in records[:-1] if record["step"] < records[-1]["step"]]
    return [*(before[index] for index in _ascending([record["step"] for record in before])), records[-1]]


def trim(path: Path, step: int) -> int:
    """Keep the lines of the first ``step`` optimizer steps, as they are; the others go to :data:`ASIDE`.

    Returns:
        How many lines could not be read, or stand where their step does not belong.
    """
    lines = _lines(path)
    records = [_record(line) for line in lines]
    good = [index for index, record in enumerate(records) if record is not None and record["step"] <= step]
    kept = {good[index] for index in _ascending([(records[index] or {})["step"] for index in good])}
    later = {index for index, record in enumerate(records) if record is not None and record["step"] > step}
    if len(kept) < len(lines):
        aside = [line for index, line in enumerate(lines) if index not in kept and line.strip(b"\0 \r\t")]
        with path.with_name(ASIDE).open("ab") as file:
            file.write(b"".join(line + b"\n" for line in aside))
            sync(file)
        write_bytes(path, b"".join(lines[index] + b"\n" for index in sorted(kept)))
    again = {index for index in later if index > max(kept, default=-1)}
    return len(lines) - len(kept) - len(again)


def _lines(path: Path) -> list[bytes]:
    """The lines; a last one may be torn."""
    data = path.read_bytes() if path.is_file() else b""
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _record(line: bytes) -> Record | None:
    """A line as it was written, or None."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if isinstance(step, int) and not isinstance(step, bool) and step > 0 else None


def _ascending(steps: Sequence[int]) -> list[int]:
    """Indices of a longest strictly ascending part, so that one wrong number costs one line; of equals the later one.

    Source: patience sorting (Fredman 1975, "On computing the length of longest increasing subsequences").
    """
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for index, step in enumerate(steps):
        place = bisect_left(tails, step)
        before.append(ends[place - 1] if place else -1)
        tails[place : place + 1] = [step]
        ends[place : place + 1] = [index]
    chain = [ends[-1]] if ends else []
    while chain and before[chain[-1]] >= 0:
        chain.append(before[chain[-1]])
    return chain[::-1]
