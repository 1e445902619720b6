"""The tables as parts of pages: what the documentation says is what is translated."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vader.migration import modelscope, opensora, videocrafter, videox_fun
from vader.migration.keys import Key

TABLES: dict[str, tuple[str, tuple[Key, ...]]] = {
    "videocrafter": ("--{}", videocrafter.KEYS),
    "opensora": ("{}", opensora.KEYS),
    "modelscope": ("{}", modelscope.KEYS),
    "videox-fun": ("--{}", (*videox_fun.KEYS, videox_fun.SKIPPED, videox_fun.EXPERT)),
}
"""Name of a table -> how a setting is written, and the settings."""

_PART = re.compile(r"(<!-- table: ([\w-]+) -->\n)(?:.*?)(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """A table in Markdown: the setting, its place in the spec, and what is to know, with the default there."""
    form, keys = TABLES[name]
    rows = [
        f"| `{form.format(key.name)}` | {f'`{key.place}`' if key.place else 'none'} | {key.meaning}{_default(key)} |"
        for key in keys
    ]
    head = ["| there | in the spec | how |", "|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _default(key: Key) -> str:
    return "" if key.default in (None, "") else f"{' ' if key.meaning else ''}(`{key.default}`)"


def renewed(text: str) -> str:
    """A page with its tables written again, between ``<!-- table: NAME -->`` and ``<!-- end -->``."""
    return _PART.sub(lambda match: f"{match[1]}\n{table(match[2])}\n{match[3]}", text)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        for page in Path(argument).glob("*.md"):
            page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
