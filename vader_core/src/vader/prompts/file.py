"""Prompts from a text file."""

from __future__ import annotations

import random
from pathlib import Path

from pydantic import Field

from vader.prompts import draw_evenly
from vader.protocols import Prompt
from vader.spec import Options


class FileOptions(Options):
    """Options of :class:`FilePrompts`."""

    path: str = Field(
        min_length=1, description="Text file with one prompt a line; lines that start with # are comments."
    )


class FilePrompts:
    """Draws from the lines of a text file.

    Raises:
        ValueError: the file cannot be read or holds no prompt.
    """

    Options = FileOptions

    def __init__(self, options: FileOptions) -> None:
        self._prompts = [Prompt(line) for line in read_prompts(Path(options.path))]

    def draw(self, n: int, rng: random.Random) -> list[Prompt]:
        """See :class:`vader.protocols.PromptSource`."""
        return draw_evenly(self._prompts, n, rng)


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: its lines, without blank ones and comments.

    Raises:
        ValueError: the file cannot be read or holds no prompt.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"cannot read the prompt file {str(path)!r}: {reason}. Expected UTF-8 text, one prompt a line."
        ) from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise ValueError(f"the prompt file {str(path)!r} holds no prompt. Add at least one line that is not a comment.")
    return prompts
