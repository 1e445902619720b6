"""Every component there is, as rows: what ``vader plugins`` shows and what strict mode judges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vader.errors import BrokenComponent
from vader.installing import install_command
from vader.plugins import registry, selection, static_inspect
from vader.plugins.discovery import Diagnosis, Found, plugin_distributions
from vader.plugins.registry import GROUPS, LISTENER, Entry
from vader.protocols import API_VERSION, capabilities_of

if TYPE_CHECKING:
    from vader.plugins.probe import Report

NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What a component may be called."""

BROKEN = ("broken", "clash", "shadows", "incompatible")
"""Statuses that strict mode turns into a failure."""


@dataclass(frozen=True)
class Row:
    """One component.

    Args:
        status: ``installed`` (found, not imported), ``ok`` (imported and right), ``broken``, ``clash`` (another
            distribution claims the name), ``shadows`` (the name is a built-in's), ``incompatible`` (written for another
            vader), ``disabled`` or ``not installed``.
        capabilities: its class attributes, as far as they are known.
        cause: what is wrong, empty when nothing is.
        fix: what to do about it.
    """

    kind: str
    name: str
    distribution: str
    version: str
    status: str
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def rows(*, check: bool = False, timeout: float = 30.0) -> list[Row]:
    """A row for every component, installed or known to exist elsewhere.

    Args:
        check: import each in another process, and say what came of it; else nothing of a plugin runs, and what is said
            comes from metadata and source text.
        timeout: seconds for each import.
    """
    installed = list(plugin_distributions())
    claims = [*(entry for kind in GROUPS for entry in registry.claims(kind, installed)), *_listeners(installed)]
    pairs = [(entry, _row(entry, claims)) for entry in claims]
    if check:
        pairs = list(_checked(pairs, timeout))
    listed = [row for _, row in pairs]
    return [*listed, *_damaged(installed), *_elsewhere(listed)]


def require_sound() -> None:
    """In strict mode, import every plugin in another process.

    Raises:
        BrokenComponent: one is broken, contested or incompatible; names each.
    """
    if not selection.strict():
        return
    bad = [row for row in rows(check=True) if row.status in BROKEN]
    if bad:
        listed = "".join(
            f"\n  {row.kind} {row.name!r} of {row.distribution} {row.version}: {row.cause} {row.fix}" for row in bad
        )
        raise BrokenComponent(
            f"{selection.STRICT} is set and {len(bad)} installed component(s) cannot be used:{listed}"
        )


def _row(entry: Entry, claims: Sequence[Entry]) -> Row:
    row = Row(entry.kind, entry.name, entry.distribution, entry.version, "installed")
    if entry.refusal is not None:
        return _refused(row, entry.refusal)
    same = [other for other in claims if (other.kind, other.name) == (entry.kind, entry.name)]
    rivals = [other for other in same if other != entry and other.refusal is None and entry.kind != LISTENER]
    if any(rival.built_in for rival in rivals) and not entry.built_in:
        return replace(row, status="shadows", cause=registry.shadowed(entry), fix=_off(entry))
    if rivals and not entry.built_in:
        who = ", ".join(f"{rival.distribution} {rival.version}" for rival in rivals)
        return replace(row, status="clash", cause=f"{who} claims the name too; all are refused.", fix=_off(entry))
    if not NAME.fullmatch(entry.name):
        cause = f"{entry.name!r} is no valid name; expected small letters, digits and underscores."
        return replace(row, status="broken", cause=cause, fix="Its author must rename it.")
    return _read(row, entry)


def _read(row: Row, entry: Entry) -> Row:
    """What the source text says."""
    reading = static_inspect.read(entry.value, module_alone=entry.kind == LISTENER)
    if reading.problem is not None:
        return replace(row, status="broken", cause=f"{reading.problem}.", fix=_reinstall(entry))
    known = {name: reading.attributes[name] for name in capabilities_of(entry.kind) if name in reading.attributes}
    version = known.get("api_version", API_VERSION)
    if version != API_VERSION:
        return _refused(row, registry.wrong_api(version))
    return replace(row, capabilities=known)


def _checked(pairs: Sequence[tuple[Entry, Row]], timeout: float) -> Iterator[tuple[Entry, Row]]:
    """The rows after importing what nothing was said against so far."""
    from vader.plugins.probe import probe

    wanted = [entry for entry, row in pairs if row.status in ("installed", "broken")]
    reports = dict(zip(map(id, wanted), probe(wanted, timeout), strict=True))
    for entry, row in pairs:
        report = reports.get(id(entry))
        yield entry, row if report is None else _with(row, entry, report)


def _with(row: Row, entry: Entry, report: Report) -> Row:
    if report.status != "ok":
        return replace(row, status=report.status, cause=report.cause, fix=report.fix or _off(entry))
    if not NAME.fullmatch(row.name):
        return row
    cause = ""
    if report.heavy:
        cause = f"works, but its import loads {', '.join(report.heavy)}: judging a spec takes seconds."
    if report.sockets:
        cause = f"works, but its import uses the network ({report.sockets[0]})."
    return replace(row, status="ok", capabilities=report.capabilities, cause=cause, fix="")


def _refused(row: Row, verdict: Diagnosis) -> Row:
    return replace(row, status=verdict.status, cause=verdict.cause, fix=verdict.fix)


def _off(entry: Entry) -> str:
    return f"Uninstall it ('pip uninstall {entry.distribution}') or run 'vader plugins --disable {entry.distribution}'."


def _reinstall(entry: Entry) -> str:
    return f"Reinstall it (`{install_command(entry.distribution, '--force-reinstall')}`) or uninstall it."


def _listeners(installed: Sequence[Found]) -> list[Entry]:
    """Listeners of run events, of group ``vader.plugins``."""
    return [
        Entry(
            LISTENER,
            str(point.name),
            str(point.value or ""),
            found.name,
            found.version,
            selection.refusal(LISTENER, str(point.name), found.name) or registry.incompatible(found),
        )
        for found in installed
        for point in found.points
        if point.group == "vader.plugins"
    ]


def _damaged(installed: Sequence[Found]) -> Iterator[Row]:
    """Distributions whose metadata cannot be read: whatever they offer is not known."""
    for found in installed:
        if found.damage is not None:
            command = install_command(found.name, "--force-reinstall")
            fix = f"Reinstall it (`{command}`) or delete it from the environment."
            yield Row("distribution", "", found.name, found.version, "broken", {}, f"{found.damage}.", fix)


def _elsewhere(listed: Sequence[Row]) -> Iterator[Row]:
    known = {(row.kind, row.name) for row in listed}
    for kind, names in registry.NOT_INSTALLED.items():
        for name, distribution in names.items():
            if (kind, name) not in known:
                fix = install_command(distribution)
                yield Row(kind, name, distribution, "", "not installed", fix=fix)
