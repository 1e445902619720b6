"""What a plugin's source text says about a component: read, never run.

So ``vader plugins`` can show capabilities, and name what is plainly broken, in milliseconds and in safety. What only
running would show (an import that raises) is for ``vader plugins --check``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reading:
    """Class attributes that are written as literals, inherited ones included, or what is wrong."""

    attributes: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read(value: str, *, module_alone: bool = False) -> Reading:
    """Read a component by its entry point's value, ``module:attribute``.

    Args:
        value: of the entry point.
        module_alone: it may be a module, as a listener may.
    """
    module, colon, attribute = value.partition(":")
    parts = module.split(".") if module_alone and not colon else [*module.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        return Reading(problem=f"its entry point {value!r} is not module:attribute")
    path = locate(module)
    if path is None:
        return Reading(problem=f"there is no module {module!r}")
    if path.suffix != ".py":
        return Reading()
    try:
        trees = [_tree(one) for one in [*_parents(module), path]]
        missing = [name for tree in trees for name in _imports(tree) if not _findable(name)]
        if missing:
            return Reading(problem=f"it imports {missing[0]!r}, which is not installed")
        names = _names(trees[-1])
        if names is not None and attribute and attribute.partition(".")[0] not in names:
            return Reading(problem=f"module {module!r} has no {attribute!r}")
        return Reading(_attributes(module, attribute, 0) if attribute else {})
    except SyntaxError as error:
        return Reading(problem=f"SyntaxError in {error.filename}, line {error.lineno}: {error.msg}")
    except (OSError, ValueError) as error:
        return Reading(problem=f"its source cannot be read ({error})")


def locate(module: str) -> Path | None:
    """The file of a module, found without importing it or its parents; None when there is none."""
    spec = _spec(module)
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _spec(module: str) -> ModuleSpec | None:
    top, *rest = module.split(".")
    spec, name = _top(top, tuple(sys.path)), top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


@cache
def _top(name: str, path: tuple[str, ...]) -> ModuleSpec | None:
    """The spec of a top-level module, by every finder there is; editable installations bring their own."""
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, None)
        except Exception:  # another package's finder is broken, which says nothing about this module
            continue
        if spec is not None:
            return spec
    return None


def _findable(name: str) -> bool:
    built_in = name in sys.builtin_module_names or name in sys.stdlib_module_names
    return built_in or _top(name, tuple(sys.path)) is not None


def _parents(module: str) -> Iterator[Path]:
    """The ``__init__`` files that run before a module."""
    parts = module.split(".")
    for length in range(1, len(parts)):
        path = locate(".".join(parts[:length]))
        if path is not None and path.suffix == ".py":
            yield path


@cache
def _parsed(path: Path, modified: int) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def _tree(path: Path) -> ast.Module:
    return _parsed(path, path.stat().st_mtime_ns)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Top-level packages that a module imports whatever happens."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _names(tree: ast.Module) -> set[str] | None:
    """Names that a module binds at its top level; None when that cannot be told by reading."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == "__getattr__":
                return None
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif not isinstance(node, ast.Expr):
            return None
    return names


def _attributes(module: str, name: str, depth: int) -> dict[str, Any]:
    """Literal attributes of a class or function, following bases through plain imports."""
    path = locate(module)
    if path is None or path.suffix != ".py" or depth > 8:
        return {}
    tree = _tree(path)
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for base in reversed(node.bases):
                if isinstance(base, ast.Name):
                    found |= _attributes(module, base.id, depth + 1)
            found |= dict(_literals(node.body))
        elif isinstance(node, ast.ImportFrom) and node.module:
            origin = _absolute(module, path, node)
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    found |= _attributes(origin, alias.name, depth + 1)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            target = node.targets[0]
            if isinstance(target.value, ast.Name) and target.value.id == name:
                found |= dict(_literal(target.attr, node.value))
    return found


def _absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    """The full name of the module that a (perhaps relative) import is from."""
    if not node.level:
        return str(node.module)
    parts = module.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    return ".".join([*package[: len(package) - node.level + 1], str(node.module)])


def _literals(body: list[ast.stmt]) -> Iterator[tuple[str, Any]]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
            yield from _literal(node.target.id, node.value)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield from _literal(node.targets[0].id, node.value)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, ...


def _literal(name: str, value: ast.expr) -> Iterator[tuple[str, Any]]:
    try:
        yield name, ast.literal_eval(value)
    except ValueError:
        return
