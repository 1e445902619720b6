"""The engine: the only module of the core that knows accelerate."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import vader


def imported(file: Path) -> Iterator[str]:
    """The packages that a module names in imports, wherever they stand."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_one_module_imports_accelerate() -> None:
    """For type checking too, which the import contract does not see."""
    home = Path(vader.__file__).parent
    found = {str(file.relative_to(home)) for file in home.rglob("*.py") if "accelerate" in imported(file)}
    assert found == {"runs/engine.py"}
