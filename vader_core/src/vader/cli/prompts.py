"""The command that shows prompts: which sources are installed, and the named sets they offer."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vader.errors import BrokenComponent, RegistryError, UnknownComponent

if TYPE_CHECKING:
    from vader.plugins.registry import Entry
    from vader.protocols import Prompt


@dataclass(frozen=True)
class Source:
    """An installed prompt source.

    Args:
        about: the first line of its docstring; for one that cannot be used, why and what to do.
        sets: its named sets, as ``named_sets`` gives them; empty for a source without.
    """

    name: str
    distribution: str
    about: str
    sets: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    broken: bool = False


def register(app: typer.Typer) -> None:
    """Add the command of this module to the ``vader`` command."""
    app.command()(prompts)


def prompts(
    name: Annotated[
        str | None, typer.Argument(metavar="[SET]", help="A named set, or SOURCE:SET: print its prompts, one a line.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with what prompts carry besides their text.")
    ] = False,
) -> None:
    """List prompt sources and their named sets, or print the prompts of one set."""
    from vader.prompts.file import as_lines

    sources = installed()
    if name is None:
        typer.echo(json.dumps(list(map(_facts, sources)), indent=2) if as_json else _listing(sources))
        return
    chosen = find(name, sources)
    if as_json:
        rows = [{"text": prompt.text, "metadata": dict(prompt.metadata)} for prompt in chosen]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(as_lines(prompt.text for prompt in chosen)))


def installed() -> list[Source]:
    """Every prompt source that takes part, sorted by name. One that breaks is said to be broken and stops no other."""
    from vader.plugins import registry

    return [_source(entry) for entry in registry.entries("prompts")]


def _source(entry: Entry) -> Source:
    from vader.plugins import registry

    try:
        component = registry.find("prompts", entry.name).load()
        sets = _named_sets(entry, component)
    except RegistryError as error:
        return Source(entry.name, entry.distribution, str(error).replace("\n", " "), broken=True)
    about = (component.__doc__ or "").strip().partition("\n")[0]
    return Source(entry.name, entry.distribution, about, sets)


def _named_sets(entry: Entry, component: Any) -> Mapping[str, Sequence[Prompt]]:
    """What an optional ``named_sets`` gives.

    Raises:
        BrokenComponent: it raises, or gives something else.
    """
    from vader.protocols import NamedPromptSets, ability

    able = ability("prompts", component, NamedPromptSets)
    if able is None:
        return {}
    fix = "Its author must correct that."
    try:
        sets = {name: tuple(held) for name, held in able.named_sets().items()}
        if all(isinstance(name, str) and all(isinstance(p.text, str) for p in sets[name]) for name in sets):
            return sets
    except Exception as error:
        raise BrokenComponent(f"named_sets of {entry} raised {type(error).__name__}: {error}.", fix) from error
    raise BrokenComponent(f"named_sets of {entry} gave no mapping from names to prompts.", fix)


def find(name: str, sources: Sequence[Source]) -> Sequence[Prompt]:
    """The prompts of one named set.

    Args:
        name: ``SET``, or ``SOURCE:SET`` where two sources have a set of that name.
        sources: what :func:`installed` gives.

    Raises:
        UnknownComponent: no set is called that, or several are.
    """
    known = {f"{source.name}:{one}": held for source in sources for one, held in source.sets.items()}
    matches = [key for key in known if name in (key, key.partition(":")[2])]
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise UnknownComponent(f"several prompt sources have a set {name!r}. Name one of {', '.join(matches)}.")
    offered = list(known) if ":" in name else list(dict.fromkeys(key.partition(":")[2] for key in known))
    near = difflib.get_close_matches(name, offered, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    same = next((source for source in sources if source.name == name), None)
    if same is not None:
        held = f"its sets are {', '.join(same.sets)}" if same.sets else "it has no named sets"
        hint = f" {name!r} is a prompt source; {held}."
    raise UnknownComponent(f"no set of prompts is called {name!r}.{hint} 'vader prompts' lists all {len(known)}.")


def _facts(source: Source) -> dict[str, Any]:
    sets = [
        {"name": name, "prompts": len(held), "example": held[0].text if held else None}
        for name, held in source.sets.items()
    ]
    return {
        "source": source.name,
        "distribution": source.distribution,
        "about": source.about,
        "status": "broken" if source.broken else "ok",
        "sets": sets,
    }


def _listing(sources: Sequence[Source]) -> str:
    """A paragraph for each source: its name, what it is, and a line for each of its sets."""
    width = max((len(name) for source in sources for name in source.sets), default=0)
    paragraphs = []
    for source in sources:
        lines = [
            f"{source.name}  ({source.distribution})  {'broken: ' if source.broken else ''}{source.about}".rstrip()
        ]
        for name, held in source.sets.items():
            lines.append(f"  {name:<{width}}  {len(held):>4}  {held[0].text if held else ''}".rstrip())
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)
