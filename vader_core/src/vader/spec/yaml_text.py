"""YAML from strangers: plain values only, within limits, and one short error for whatever is none.

The loader of PyYAML, made smaller: dates stay text, a tag beyond the plain ones is refused, and so is a text that is
too large, too deep, or that its aliases make too large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from vader.errors import cut

if TYPE_CHECKING:
    from yaml import SafeLoader as _Base
else:
    _Base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

NODES, DEPTH = 50_000, 50
"""Most values of a text, aliases counted as what they stand for, and most levels of nesting."""
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_NUMBER_LENGTH = 400
_INTEGERS = 2**63


class NotYamlError(ValueError):
    """A text is no YAML of plain values.

    Args:
        message: why, in one sentence.
        line: where, counted from 1; None when that is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(message)


class _Loader(_Base):
    """PyYAML's safe loader for null, booleans, numbers, texts, lists and mappings."""

    yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in [_PREFIX + name for name in _PLAIN]
    }
    yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in (f"{_PREFIX}timestamp", f"{_PREFIX}value")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As PyYAML's, with an error of one kind."""
        kind = str(node.tag).removeprefix(_PREFIX)
        if kind in ("int", "float") and isinstance(node, yaml.ScalarNode) and len(node.value) > _NUMBER_LENGTH:
            raise NotYamlError(f"a number of {len(node.value)} characters is too long", _line(node.start_mark))
        try:
            made = super().construct_object(node, deep)
        except (yaml.YAMLError, NotYamlError):
            raise
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            said = f"{cut(node.value)} cannot be read as {kind}; quote it if it is text"
            raise NotYamlError(said, _line(node.start_mark)) from error
        if type(made) is int and abs(made) >= _INTEGERS:
            raise NotYamlError(f"the number {cut(node.value)} is too large", _line(node.start_mark))
        return made


def load(text: str, most: int = NODES) -> Any:
    """The data of a YAML text; None for an empty one.

    Args:
        text: of one document.
        most: values that it may have.

    Raises:
        NotYamlError: it is no YAML of plain values, or beyond the limits.
    """
    return compose(text, most)[1]


def compose(text: str, most: int = NODES) -> tuple[yaml.Node | None, Any]:
    """The nodes of a YAML text, which know their lines, and its data; see :func:`load`."""
    try:
        _measure(text, most)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return node, loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise NotYamlError(_said(error), _line(getattr(error, "problem_mark", None))) from error
    except UnicodeError as error:
        raise NotYamlError("it holds characters that are no text") from error
    except RecursionError as error:
        raise NotYamlError("it is nested too deeply") from error


def _said(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or error)
    if problem.startswith("could not determine a constructor"):
        return f"the tag {problem.rpartition('tag ')[2]} means nothing here; write a plain value"
    return cut(" ".join(problem.split()), plain=True)


def _line(mark: Any) -> int | None:
    return mark.line + 1 if mark is not None else None


def _measure(text: str, most: int) -> None:
    """Count values and levels before anything is made of them.

    Raises:
        NotYamlError: there are too many, or an alias refers to what contains it.
    """
    sizes: dict[str, int | None] = {}  # of what an anchor names; None while it is open
    open_: list[tuple[str | None, int]] = []  # anchor and size so far, of each level
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 1)
            if size is None:
                message = "a YAML alias (*name) refers to what contains it. Write the values out"
                raise NotYamlError(message, _line(event.start_mark))
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if event.anchor is not None:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.anchor is not None:
                sizes[event.anchor] = None
            open_.append((event.anchor, 0))
            if len(open_) > DEPTH:
                message = f"it is nested more than {DEPTH} levels deep"
                raise NotYamlError(message, _line(event.start_mark))
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            size += 1
            if anchor is not None:
                sizes[anchor] = size
        else:
            continue
        if open_:
            anchor, so_far = open_[-1]
            open_[-1] = anchor, so_far + size
            total = max(total, so_far + size)
        if total > most:
            message = f"it holds more than {most:,} values, aliases (*name) counted as what they stand for"
            raise NotYamlError(message, _line(event.start_mark))
