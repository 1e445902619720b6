"""Rows of prompts: a text, perhaps an image, a weight and metadata; from YAML, JSON lines, CSV, or lines of text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vader.backbones.images import opened
from vader.prompts.file import read_text, read_weighted
from vader.protocols import Prompt
from vader.spec import Options

WITH_FIELDS = (".yaml", ".yml", ".jsonl", ".csv")
"""Ends of the names of files whose rows have fields; any other file has one prompt a line."""


class PromptRow(Options):
    """A prompt with what goes with it."""

    text: str = Field(min_length=1, description="The prompt.")
    image: str | None = Field(None, min_length=1, description="File of the image that the clip begins with.")
    weight: float = Field(1.0, gt=0, description="How often it is drawn, in relation to the others.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="What else a reward may need to know.")

    def prompt(self, folder: Path, where: str) -> Prompt:
        """The prompt, its image looked at.

        Args:
            folder: what the image's path is relative to.
            where: names the row, for errors.

        Raises:
            ValueError: the image cannot be read.
        """
        path = folder / Path(self.image).expanduser() if self.image is not None else None
        if path is not None:
            try:
                opened(path)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        return Prompt(self.text, self.metadata, path)


def read_rows(path: Path) -> list[tuple[Prompt, float]]:
    """The prompts of a file, each with its weight; images are relative to the file.

    Args:
        path: ``.yaml`` holds a list of texts or of mappings, ``.jsonl`` a text or an object a line, ``.csv`` a header
            and a row a prompt, with the fields of :class:`PromptRow`; any other file is read as
            :func:`vader.prompts.file.read_weighted` does.

    Raises:
        ValueError: it cannot be read, holds no prompt, or a row is wrong, which is named.
    """
    kind = path.suffix.lower()
    if kind not in WITH_FIELDS:
        return [(Prompt(text), weight) for text, weight in read_weighted(path)]
    folder, found = path.expanduser().parent, list[tuple[Prompt, float]]()
    for where, data in _rows(path, kind):
        row = _row(data, where)
        found.append((row.prompt(folder, where), row.weight))
    if not found:
        raise ValueError(f"the prompt file {str(path)!r} holds no prompt. Add at least one row.")
    return found


def _row(data: Any, where: str) -> PromptRow:
    try:
        return PromptRow.model_validate({"text": data} if isinstance(data, str) else data)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'row'}: {item['msg']}" for item in error.errors())
        fields = ", ".join(PromptRow.model_fields)
        raise ValueError(f"{where}: {said}. A row is a text, or has the fields {fields}.") from error


def _rows(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """What each row is called, and its data."""
    text = read_text(path)
    if kind == ".csv":
        reader = csv.DictReader(text.splitlines(), restkey="", restval="")
        for row in reader:
            where = f"line {reader.line_num} of the prompt file {str(path)!r}"
            yield where, {key: value for key, value in row.items() if value not in ("", [])}
    elif kind == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                where = f"line {number} of the prompt file {str(path)!r}"
                yield where, _json(line, where)
    else:
        yield from ((f"row {n} of the prompt file {str(path)!r}", row) for n, row in enumerate(_yaml(text, path), 1))


def _json(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error


def _yaml(text: str, path: Path) -> list[Any]:
    import yaml

    try:
        rows = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the prompt file {str(path)!r} is not YAML: {' '.join(str(error).split())}.") from error
    if isinstance(rows, Mapping) or not isinstance(rows, list | None):
        found = type(rows).__name__
        raise ValueError(f"the prompt file {str(path)!r} holds {found}; expected a list of prompts.")
    return rows or []
