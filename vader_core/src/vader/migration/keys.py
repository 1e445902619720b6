"""What a table of another trainer's settings is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Fields = Mapping[str, Any]
"""Dotted path in a spec -> value."""


class NoCounterpart(ValueError):
    """A setting whose value a spec cannot say; the message says why, and what to do."""


@dataclass(frozen=True)
class Settings:
    """What a run of another trainer was set to.

    Args:
        values: every setting by name; where it was not given, the trainer's own default.
        given: the names that were given.
        folder: where relative files are looked for, and in the folders above it.
    """

    values: Mapping[str, Any]
    given: frozenset[str] = frozenset()
    folder: Path = field(default_factory=Path)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def find(self, path: str) -> str:
        """A file that the trainer names relative to its own folders, where it lies; else the name as it is."""
        for parent in (self.folder, *self.folder.resolve().parents):
            if (parent / path).is_file():
                return str(parent / path)
        return path


@dataclass(frozen=True)
class Key:
    """One setting of another trainer.

    Args:
        name: as the trainer's code has it, with dots between levels; a flag's without dashes.
        default: what the trainer takes when it is not given; its type is that of the setting.
        place: where the spec says it; empty for what has no counterpart.
        meaning: how the value is taken over, or why there is no counterpart and what to do instead.
        convert: the fields of the spec that a value becomes; None: that of ``place``, with the same value.
    """

    name: str
    default: Any = None
    place: str = ""
    meaning: str = ""
    convert: Callable[[Any, Settings], Fields] | None = None

    def fields(self, settings: Settings) -> Fields:
        """What the setting becomes.

        Raises:
            NoCounterpart: the spec cannot say this value.
        """
        value = settings[self.name]
        if self.convert is not None:
            return self.convert(value, settings)
        return {self.place: value} if self.place and value not in (None, "") else {}


@dataclass(frozen=True)
class Trainer:
    """A trainer and all its settings.

    Args:
        name: what it is called.
        keys: its settings, in the order of a page.
        base: what of the spec follows from the trainer itself.
        scripts: how its script's path ends, in a command line.
        style: how settings are written: ``flags``, ``overrides`` (``a.b=c``) or ``config`` (flags over a Python file).
        flags: those that take no value.
    """

    name: str
    keys: tuple[Key, ...]
    base: Fields
    scripts: tuple[str, ...]
    style: str = "flags"
    flags: frozenset[str] = frozenset()

    def key(self, name: str) -> Key | None:
        """The setting of that name."""
        return next((key for key in self.keys if key.name == name), None)


def nothing(_value: Any, _settings: Settings) -> Fields:
    """What needs no field, because the spec has it so anyway."""
    return {}


def one_of(place: str, known: Mapping[Any, Any]) -> Callable[[Any, Settings], Fields]:
    """A conversion by a table; a value of None leaves the field out.

    Args:
        place: the field.
        known: the trainer's value -> the spec's.
    """

    def convert(value: Any, _settings: Settings) -> Fields:
        if value not in known:
            listed = ", ".join(map(str, known))
            raise NoCounterpart(f"expected one of {listed}.")
        return {} if known[value] is None else {place: known[value]}

    return convert


LR_SCHEDULER = Key(
    "lr_scheduler",
    "constant",
    "train.schedule",
    "`constant`, `linear` and `cosine`; `constant_with_warmup` is `constant` with `train.warmup_steps`.",
    one_of(
        "train.schedule",
        {"constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine"},
    ),
)
"""As the training scripts of diffusers have it, from which trainers were made."""
