"""Executes a notebook's cells in this process, as Jupyter would show them. ``python -m tests.notebook FILE`` keeps what
they show."""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any


def executed(path: Path, folder: Path) -> dict[str, Any]:
    """The notebook with what its cells show.

    Args:
        path: of the notebook.
        folder: that the cells run in.
    """
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    with chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                shown = _run("".join(cell["source"]), names)
                result = {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": shown}
                cell |= {"execution_count": count, "outputs": [result] if shown else []}
    return notebook


def _run(source: str, names: dict[str, Any]) -> dict[str, list[str]]:
    """What the last expression of a cell shows, by MIME type; nothing where there is none."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        return {}
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    if value is None:
        return {}
    if hasattr(value, "_repr_html_"):
        return {"text/html": [value._repr_html_()], "text/plain": [type(value).__name__]}
    return {"text/plain": [repr(value)]}


if __name__ == "__main__":
    file = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        made = executed(file, Path(temporary))
    file.write_text(json.dumps(made, indent=1) + os.linesep, encoding="utf-8")
