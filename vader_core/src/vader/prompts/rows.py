"""Rows of prompts: a text, perhaps an image, a weight and metadata; from YAML, JSON, CSV, TSV, or lines of text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from vader.backbones.images import opened
from vader.errors import cut
from vader.paths import user_path
from vader.prompts.file import read_lines, read_text
from vader.protocols import Prompt
from vader.spec import Options
from vader.spec.yaml_text import NotYamlError, load

WITH_FIELDS = (".yaml", ".yml", ".json", ".jsonl", ".csv", ".tsv")
"""Ends of the names of files whose rows have fields; any other file has one prompt a line."""
COLUMNS = ("text", "prompt", "prompt_en", "caption")
"""Fields that hold the prompt where none is named, the first that is there."""
_VALUES = 1_000_000


class PromptRow(Options):
    """A prompt with what goes with it."""

    text: str = Field(min_length=1, description="The prompt.")
    image: str | None = Field(None, min_length=1, description="File of the image that the clip begins with.")
    weight: float = Field(1.0, gt=0, description="How often it is drawn, in relation to the others.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="What else a reward may need to know.")

    @field_validator("text")
    @classmethod
    def _is_text(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("it is blank")
        return text

    def prompt(self, folder: Path, where: str) -> Prompt:
        """The prompt, its image looked at.

        Args:
            folder: what the image's path is relative to.
            where: names the row, for errors.

        Raises:
            ValueError: the image cannot be read.
        """
        try:
            path = folder / user_path(self.image) if self.image is not None else None
            if path is not None:
                opened(path)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        return Prompt(self.text, self.metadata, path)


@dataclass(frozen=True)
class Rows:
    """The prompts of a file, each with its weight, and what a user should know of how it was read."""

    prompts: tuple[Prompt, ...]
    weights: tuple[float, ...]
    notices: tuple[str, ...] = ()


def read_rows(path: Path, column: str | None = None) -> Rows:
    """The prompts of a file, each with its weight; images are relative to the file.

    Args:
        path: ``.yaml`` and ``.json`` hold a list of rows, or lists by name, at any depth; ``.jsonl`` a row a line;
            ``.csv`` and ``.tsv`` a header and a row a line. A row is a text, or has the fields of :class:`PromptRow`.
            Any other file is read as :func:`vader.prompts.file.read_weighted` does.
        column: the field that holds the prompt; None takes the first of :data:`COLUMNS` that there is. Where that is
            not ``text``, fields that are unknown are metadata.

    Raises:
        ValueError: it cannot be read, holds no prompt, or a row is wrong, which is named.
    """
    kind = path.suffix.lower()
    if kind not in WITH_FIELDS:
        if column is not None:
            ends = ", ".join(WITH_FIELDS)
            raise ValueError(f"the prompt file {cut(str(path))} has no columns, as {ends} have. Remove column.")
        lines = read_lines(path)
        return Rows(tuple(Prompt(text) for text, _ in lines.found), tuple(w for _, w in lines.found), lines.notices)
    folder, found = user_path(path).parent, list[tuple[Prompt, float]]()
    for where, data in _rows(path, kind):
        row = _row(data, where, column)
        found.append((row.prompt(folder, where), row.weight))
    if not found:
        raise ValueError(f"the prompt file {cut(str(path))} holds no prompt. Add at least one row.")
    return Rows(tuple(prompt for prompt, _ in found), tuple(weight for _, weight in found))


def _row(data: Any, where: str, column: str | None) -> PromptRow:
    try:
        return PromptRow.model_validate({"text": data} if isinstance(data, str) else _named(data, where, column))
    except ValidationError as error:
        items = error.errors(include_url=False)[:3]
        said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'row'}: {item['msg']}" for item in items)
        fields = ", ".join(PromptRow.model_fields)
        message = f"{where}: {cut(said, plain=True)}. A row is a text, or has the fields {fields}."
        raise ValueError(message) from error


def _named(data: Any, where: str, column: str | None) -> Any:
    """A row whose prompt is called ``text``.

    Raises:
        ValueError: it has not the column, or none that holds a prompt.
    """
    if not isinstance(data, Mapping):
        return data
    wanted = column or next((name for name in COLUMNS if name in data), None)
    if wanted is None or wanted not in data:
        known = ", ".join(cut(str(name), plain=True) for name in list(data)[:12]) or "none"
        expected = repr(column) if column else f"one of {', '.join(COLUMNS)}"
        fix = "Name another" if column else "Name the one that holds the prompts"
        raise ValueError(f"{where} has no field {expected}, only {known}. {fix}, as column: NAME.")
    if wanted == "text":
        return data
    fields = {str(name): value for name, value in data.items() if name != wanted}
    own = {name: fields.pop(name) for name in ("image", "weight") if name in fields}
    more = fields.pop("metadata", {})
    return {"text": data[wanted], **own, "metadata": {**fields, **(more if isinstance(more, Mapping) else {})}}


def _rows(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """What each row is called, and its data."""
    text, name = read_text(path), f"the prompt file {cut(str(path))}"
    if kind in (".csv", ".tsv"):
        yield from _table(text, "\t" if kind == ".tsv" else ",", name)
    elif kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number} of {name}", _json(line, f"line {number} of {name}")
    else:
        held = _json(text, name) if kind == ".json" else _yaml(text, name)
        yield from ((f"row {number} of {name}", row) for number, row in enumerate(_flat(held, name, 0), 1))


def _flat(held: Any, name: str, depth: int) -> Iterator[Any]:
    """The rows of a list, of lists in it, and of a mapping from names to lists.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(held, Mapping) and depth < 2 and held and all(isinstance(one, list) for one in held.values()):
        for one in held.values():
            yield from _flat(one, name, depth + 1)
    elif isinstance(held, list) and depth < 8:
        for one in held:
            yield from _flat(one, name, depth + 1) if isinstance(one, list) else [one]
    elif held is not None:
        raise ValueError(f"{name} holds {type(held).__name__}; expected a list of prompts.")


def _table(text: str, delimiter: str, name: str) -> Iterator[tuple[str, Any]]:
    """The rows of a CSV or TSV; in the latter, quotes that do not go together are plain characters."""
    records = _records(text, delimiter, csv.QUOTE_MINIMAL, name)
    try:
        found = list(records)
    except ValueError:
        if delimiter == ",":
            raise
        found = list(_records(text, delimiter, csv.QUOTE_NONE, name))
    if not found:
        return
    (_, header), *rows = found
    twice = next((one for one in header if header.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"line 1 of {name} has two columns called {cut(twice)}. Rename one.")
    for number, cells in rows:
        where = f"line {number} of {name}"
        if len(cells) > len(header):
            fix = " Quote a text with commas in it." if delimiter == "," else ""
            raise ValueError(f"{where} has {len(cells)} cells under {len(header)} columns.{fix}")
        filled = dict(zip(header, cells, strict=False))
        yield where, {key: value for key, value in filled.items() if value != "" or key in COLUMNS}


def _records(text: str, delimiter: str, quoting: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every record that is not blank.

    Raises:
        ValueError: quotes do not go together.
    """
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {name} cannot be read: {error}.") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{where} is not JSON: {cut(said, plain=True)}.") from error


def _yaml(text: str, name: str) -> Any:
    try:
        return load(text, _VALUES)
    except NotYamlError as error:
        line = f"line {error.line}: " if error.line is not None else ""
        raise ValueError(f"{name} is not YAML: {line}{error}.") from error
