"""Imports components in another process and reports what came of it: an error, a crash, a hang, torch, a connection.

``python -m vader.plugins.probe`` is the other process. It takes a JSON object on standard input and writes a JSON line
for each component to the file descriptor that was its standard output; what a plugin prints goes nowhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vader.errors import BrokenComponent
from vader.plugins.registry import Entry, misfit
from vader.protocols import capabilities_of

HEAVY = ("torch", "diffusers", "transformers", "tensorflow", "jax")
"""Modules that take seconds to import; judging a spec must not."""


@dataclass(frozen=True)
class Report:
    """What importing a component did.

    Args:
        status: ``ok``, ``broken`` or ``incompatible``.
        cause: why it cannot be used; empty when it can.
        fix: what to do about that.
        heavy: modules of :data:`HEAVY` that its import brought in.
        sockets: what it did with the network, as audit events.
        capabilities: its class attributes.
    """

    status: str = "ok"
    cause: str = ""
    fix: str = ""
    heavy: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    capabilities: dict[str, Any] = field(default_factory=dict)


def probe(entries: Sequence[Entry], timeout: float = 30.0) -> list[Report]:
    """Import components in another process, one after the other; one that ends or stalls it is passed over.

    Args:
        entries: what to import.
        timeout: seconds for each.

    Returns:
        A report for each, in their order.
    """
    reports: list[Report] = []
    while len(reports) < len(entries):
        reports += _batch(entries[len(reports) :], timeout)
    return reports


def _batch(entries: Sequence[Entry], timeout: float) -> list[Report]:
    """Reports from one process: of all entries, or up to and including the one that it did not survive."""
    command = [sys.executable, "-P", "-m", "vader.plugins.probe"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([asdict(replace(entry, refusal=None)) for entry in entries]).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass
    reports: list[Report] = []
    stalled = False
    while len(reports) < len(entries):
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        line = process.stdout.readline()
        stalled = not timer.is_alive()
        timer.cancel()
        if not line.endswith(b"\n"):
            break
        data = json.loads(line)
        reports.append(Report(**{**data, "heavy": tuple(data["heavy"]), "sockets": tuple(data["sockets"])}))
    process.kill()
    code = process.wait()
    process.stdout.close()
    if len(reports) < len(entries):
        died = f"did not end within {timeout:g} s" if stalled else f"ended Python (exit code {code})"
        entry = entries[len(reports)]
        reports.append(Report("broken", f"importing {entry.value!r} {died}.", "Uninstall it or disable it."))
    return reports


_EVENTS: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith("socket.") and event != "socket.gethostname":
        _EVENTS.append(event)


def _judge(entry: Entry) -> Report:
    before = set(sys.modules)
    _EVENTS.clear()
    status, cause, fix, capabilities = "ok", "", "", {}
    try:
        component = entry.load()
        if verdict := misfit(entry.kind, component):
            status, cause, fix = verdict.status, verdict.cause, verdict.fix
        found = {name: getattr(component, name) for name in capabilities_of(entry.kind) if hasattr(component, name)}
        capabilities = {name: value for name, value in found.items() if _plain(value)}
    except BrokenComponent as error:
        status, cause, fix = "broken", error.cause, error.fix
    except BaseException as error:
        status, cause, fix = "broken", f"its import raised {type(error).__name__}: {error}.", "Uninstall it."
    heavy = tuple(name for name in HEAVY if name in sys.modules.keys() - before)
    return Report(status, cause, fix, heavy, tuple(_EVENTS), capabilities)


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def main() -> None:
    """The other process."""
    entries = [Entry(**fields) for fields in json.load(sys.stdin)]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(_audit)
    for entry in entries:
        out.write(json.dumps(asdict(_judge(entry))) + "\n")
        out.flush()
    os._exit(0)  # whatever threads or exit handlers a plugin has left are not waited for


if __name__ == "__main__":
    main()
