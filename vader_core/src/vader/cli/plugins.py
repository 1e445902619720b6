"""Commands for plugins: list them, check one, start one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vader.errors import BrokenComponent, Problem, SpecError, UnknownComponent

if TYPE_CHECKING:
    from vader.plugins.inventory import Row
    from vader.testing.checks import Outcome
    from vader.testing.subject import Subject

plugin = typer.Typer(no_args_is_help=True, help="Start a plugin of your own.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the ``vader`` command."""
    app.command()(plugins)
    app.command()(check)
    app.add_typer(plugin, name="plugin")


def plugins(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Import each in another process, and say what came of it.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Like --check; exit code 1 if any is broken.")] = False,
    disable: Annotated[
        list[str] | None, typer.Option(help="Leave a distribution, or KIND:NAME, out from now on.")
    ] = None,
    enable: Annotated[list[str] | None, typer.Option(help="Undo --disable.")] = None,
) -> None:
    """List every installed component, broken ones with the cause, and the known ones that are not installed."""
    from vader.plugins.inventory import BROKEN, rows

    if disable or enable:
        _choose(disable or [], enable or [])
    listed = rows(check=check or strict)
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in listed], indent=2))
    else:
        typer.echo(_table(listed))
    bad = [row for row in listed if row.status in BROKEN]
    if strict and bad:
        raise BrokenComponent(f"{len(bad)} of {len(listed)} components cannot be used.", "The table says why.")


def _choose(disable: Sequence[str], enable: Sequence[str]) -> None:
    """Change what is disabled."""
    from vader.plugins import selection

    names = set(selection.disabled())
    names |= {_choosable(name) for name in disable}
    for name in enable:
        key = name if ":" in name else _normalized(name)
        if key not in names:
            off = ", ".join(sorted(names)) or "nothing"
            raise UnknownComponent(f"{name!r} is not disabled. Disabled: {off}.")
        names.discard(key)
    path = selection.set_disabled(frozenset(names))
    typer.echo(f"wrote {path}. Disabled: {', '.join(sorted(names)) or 'nothing'}.", err=True)


def _normalized(name: str) -> str:
    from vader.plugins.discovery import normalized

    return normalized(name)


def _choosable(name: str) -> str:
    """What is kept for a name: of an installed distribution, or ``kind:name`` of a component.

    Raises:
        UnknownComponent: nothing installed has it, it is ambiguous, or it is a built-in.
    """
    from vader.plugins.discovery import CORE
    from vader.plugins.inventory import rows

    listed = [row for row in rows() if row.status != "not installed"]
    distributions = {_normalized(row.distribution) for row in listed}
    if _normalized(name) in distributions - {CORE}:
        return _normalized(name)
    kind, _, component = name.rpartition(":")
    found = {f"{row.kind}:{row.name}" for row in listed if row.name == component and kind in ("", row.kind)}
    own = {f"{row.kind}:{row.name}" for row in listed if _normalized(row.distribution) == CORE}
    if name == CORE or (found and found <= own):
        raise UnknownComponent(f"{name!r} belongs to vader-core and cannot be disabled.")
    found -= own
    if len(found) != 1:
        offer = ", ".join(sorted(found or distributions - {CORE})) or "none"
        what = "several components have that name" if found else "nothing installed is called that"
        raise UnknownComponent(f"cannot disable {name!r}: {what}. Name one of {offer}.")
    return found.pop()


def _table(rows: Sequence[Row]) -> str:
    """A line for each component; the last column says what it can do, or what is wrong and what to do about it."""
    cells = [("kind", "name", "distribution", "version", "status", "capabilities"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    aligned = (("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row) for row in cells)
    return "\n".join(f"{line}  {row[5]}".rstrip() for line, row in aligned)


def _cells(row: Row) -> tuple[str, ...]:
    status, fix = (f"not installed: {row.fix}", "") if row.status == "not installed" else (row.status, row.fix)
    said = [_capable(row.capabilities), row.cause, fix]
    name = row.name or "(all of it)"
    return row.kind, name, row.distribution, row.version, status, " ".join(filter(None, said)).replace("\n", " ")


def _capable(capabilities: Mapping[str, Any]) -> str:
    """Capabilities in a few words."""
    words = list(map(str, capabilities.get("predictions", ())))
    flags = {
        "differentiable": ("differentiable", "no gradient"),
        "needs_prompt": ("prompt", ""),
        "gradient_checkpointing": ("checkpointing", ""),
        "stochastic": ("eta", ""),
        "needs_gradient": ("needs gradient", "no gradient needed"),
    }
    for name, (yes, no) in flags.items():
        if name in capabilities:
            words.append(yes if capabilities[name] else no)
    if capabilities.get("frames", 1) != 1:
        words.append(f"{capabilities['frames']}+ frames")
    if capabilities.get("input") == "latents":
        words.append("latents")
    return ", ".join(filter(None, words))


def check(
    name: Annotated[str, typer.Argument(help="A registered name, or ./file.py:Name with --kind.")],
    kind: Annotated[
        str | None, typer.Option(help="backbone, reward, sampler, prompts or method, where a name has several.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the component.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Prompts that mean something to it.")
    ] = None,
    size: Annotated[str, typer.Option(help="Height and width of the clips given to a reward.")] = "32x32",
    video: Annotated[str | None, typer.Option(help="Frames, height and width of a backbone's clip, 5x64x64.")] = None,
    backbone: Annotated[str | None, typer.Option(help="The backbone whose latents a reward scores.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option(metavar="CHECK=REASON", help="A check that cannot hold, and why.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check that a component keeps its contract: on the CPU, offline, in seconds."""
    subjects = _subjects(name, kind, set_ or [], prompt or [], (size, video), backbone, expect or [])
    results = [(subject, subject.outcomes()) for subject in subjects]
    if as_json:
        data = [
            {"kind": subject.kind, "check": outcome.name, "status": outcome.status, "message": outcome.message}
            for subject, outcomes in results
            for outcome in outcomes
        ]
        typer.echo(json.dumps(data, indent=2))
    else:
        for subject, outcomes in results:
            typer.echo(_outcomes(subject, outcomes))
    if any(outcome.broken for _, outcomes in results for outcome in outcomes):
        raise typer.Exit(1)


def _subjects(
    name: str,
    kind: str | None,
    options: list[str],
    prompts: list[str],
    sizes: tuple[str, str | None],
    backbone: str | None,
    expected: list[str],
) -> list[Subject]:
    """What the command line asks to check.

    Raises:
        SpecError: an argument is not of its form.
        UnknownComponent: nothing is called that.
    """
    from vader.plugins import registry
    from vader.protocols import Prompt
    from vader.testing.checks import KINDS
    from vader.testing.subject import PROMPTS, Subject

    if kind is not None and kind not in KINDS:
        raise _wrong("--kind", f"expected {', '.join(KINDS)}; found {kind!r}.")
    kinds = [kind] if kind else [one for one in KINDS if any(entry.name == name for entry in registry.claims(one))]
    if not kinds:
        if registry.unpackaged(name):
            raise _wrong("--kind", f"{name!r} is unpackaged code; say what it is, such as --kind reward.")
        offered = sorted({f"{entry.name} ({one})" for one in KINDS for entry in registry.entries(one)})
        raise UnknownComponent(f"no component is called {name!r}. Installed: {', '.join(offered)}.")
    height, width = _numbers("--size", sizes[0], "HEIGHTxWIDTH such as 64x64", 2)
    video = _numbers("--video", sizes[1], "FRAMESxHEIGHTxWIDTH such as 5x64x64", 3) if sizes[1] else None
    try:
        return [
            Subject(
                one,
                name,
                _pairs("--set", options, as_yaml=True) if options else None,
                prompts=[Prompt(text) for text in prompts] or PROMPTS,
                size=(height, width),
                video=dict(zip(("frames", "height", "width"), video, strict=True)) if video else None,
                backbone=backbone,
                expected_failures=_pairs("--expect", expected),
            )
            for one in kinds
        ]
    except ValueError as error:
        raise _wrong("--expect", str(error)) from error


def _wrong(argument: str, message: str) -> SpecError:
    return SpecError([Problem(argument, message)], "the command")


def _numbers(argument: str, text: str, form: str, count: int) -> list[int]:
    """``"5x64x64"`` as numbers."""
    parts = text.split("x")
    if len(parts) != count or not all(part.isdigit() and int(part) for part in parts):
        raise _wrong(argument, f"expected {form}; found {text!r}.")
    return [int(part) for part in parts]


def _pairs(argument: str, items: Sequence[str], *, as_yaml: bool = False) -> dict[str, Any]:
    """``["a=1"]`` as a mapping."""
    from vader.spec.yaml_text import NotYamlError, load

    found: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise _wrong(argument, f"expected NAME=VALUE; found {item!r}.")
        try:
            found[key] = load(value) if as_yaml else value
        except NotYamlError as error:
            raise _wrong(argument, f"the value of {key} is not valid YAML: {error}.") from error
    return found


def _outcomes(subject: Subject, outcomes: Sequence[Outcome]) -> str:
    """A line for each check, and what is wrong under those that failed."""
    signs = {"passed": "ok", "failed": "FAILED", "expected": "expected", "surprise": "FAILED", "not applicable": "-"}
    lines = [f"{subject.kind} {subject.title}"]
    for outcome in outcomes:
        lines.append(f"  {signs[outcome.status]:<8}  {outcome.name:<40}  {outcome.promise}".rstrip())
        if outcome.message:
            lines.append(f"            {'' if outcome.broken else 'because '}{outcome.message}")
    broken = sum(outcome.broken for outcome in outcomes)
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    lines.append(f"  {passed} of {len(outcomes)} checks hold, {broken} fail.")
    return "\n".join(lines)


@plugin.command()
def new(
    kind: Annotated[str, typer.Argument(help="reward, backbone, sampler, prompts, method or listener.")],
    name: Annotated[str, typer.Argument(help="Its name, such as my-reward.")],
    into: Annotated[Path, typer.Option(help="The folder to make it in.")] = Path(),
) -> None:
    """Write an installable package with one component, its tests, a README and a CI file."""
    from vader.scaffold import write

    folder = write(kind, name, into)
    place = folder if folder.is_absolute() else f"./{folder}"
    component = name.replace("-", "_")
    check = "vader plugins --check" if kind == "listener" else f"vader check {component}"
    typer.echo(f"wrote {folder}. Next:\n  pip install --editable {place}\n  pytest {place}\n  {check}")
