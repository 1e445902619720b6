"""Which plugins are installed: a scan of distributions' metadata that no damaged distribution can stop.

``importlib.metadata.entry_points`` reads every distribution on the path and fails as a whole when one of them cannot be
read; here the one that cannot be read becomes a finding. Nothing of a plugin is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any, Literal

CORE = "vader-core"
_PREFIX = "vader."
_KNOWN: dict[str, tuple[tuple[Any, ...], Found | None]] = {}
"""Metadata folder -> what its files were, and what they say: parsing METADATA takes longer than all the rest."""


@dataclass(frozen=True)
class Found:
    """An installed distribution that offers something to vader.

    Args:
        name: the distribution's name, from its folder's name when its metadata says none.
        version: empty when unknown.
        points: its entry points in vader's groups.
        requires: its requirements, as written.
        damage: what is wrong with its metadata; None for nothing.
    """

    name: str
    version: str
    points: tuple[EntryPoint, ...] = ()
    requires: tuple[str, ...] = ()
    damage: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Why a component takes no part.

    Args:
        status: ``disabled``, ``incompatible`` or ``broken``.
        cause: a sentence about what is wrong.
        fix: a sentence about what to do.
    """

    status: Literal["disabled", "incompatible", "broken"]
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.cause} {self.fix}"


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plugin_distributions() -> Iterator[Found]:
    """Every distribution with entry points in vader's groups, each once: the first on the path."""
    seen: set[str] = set()
    for distribution in distributions():
        key = _key(distribution)
        if key in seen:
            continue
        seen.add(key)
        found = _read(distribution, key)
        if found is not None:
            yield found


def _key(distribution: Distribution) -> str:
    """The normalised name, from the metadata folder's own name: reading every METADATA would take long."""
    path = getattr(distribution, "_path", None)
    stem = str(getattr(path, "name", "")).rpartition(".")[0].partition("-")[0]
    return normalized(stem or str(distribution.metadata["Name"] or ""))


def _read(distribution: Distribution, key: str) -> Found | None:
    try:
        text = distribution.read_text("entry_points.txt")
        if not text or f"[{_PREFIX}" not in text:
            return None
    except Exception as error:
        return _unreadable(distribution, key, error)
    files = _files(distribution)
    if not files:
        return _parse(distribution, key)
    place, state = str(files[0].parent), (text, *map(_state, files))
    known = _KNOWN.get(place)
    if known is None or known[0] != state:
        known = _KNOWN[place] = (state, _parse(distribution, key))
    return known[1]


def _parse(distribution: Distribution, key: str) -> Found | None:
    try:
        points = tuple(point for point in distribution.entry_points if str(point.group).startswith(_PREFIX))
    except Exception as error:
        return _unreadable(distribution, key, error)
    try:
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        requires = tuple(distribution.requires or ())
    except Exception as error:
        return Found(key, "", points, damage=f"its METADATA cannot be read ({type(error).__name__}: {error})")
    damage = None if name and version else "its METADATA is missing or has no name and version"
    return Found(str(name or key), str(version or ""), points, requires, damage)


def _unreadable(distribution: Distribution, key: str, error: Exception) -> Found | None:
    if not _mentions_vader(distribution):
        return None
    return Found(key, "", damage=f"its entry_points.txt cannot be read ({type(error).__name__}: {error})")


def _files(distribution: Distribution) -> list[Path]:
    """What name, version and requirements are read from; none where it is not a folder on disk."""
    path = getattr(distribution, "_path", None)
    return [path / name for name in ("METADATA", "PKG-INFO", "requires.txt")] if isinstance(path, Path) else []


def _state(file: Path) -> tuple[int, ...] | None:
    """Changes when a file does."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _mentions_vader(distribution: Distribution) -> bool:
    """Whether an unreadable entry_points.txt was meant for vader, so far as its bytes can tell."""
    path = getattr(distribution, "_path", None)
    try:
        return path is not None and f"[{_PREFIX}".encode() in (path / "entry_points.txt").read_bytes()
    except OSError:
        return False
