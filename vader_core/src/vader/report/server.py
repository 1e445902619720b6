"""Reports in a browser, made anew at every look: on this machine alone, to those who know the address."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vader.errors import RunFolderError
from vader.report.numbers import duration
from vader.report.page import fill, render
from vader.report.reading import read_run
from vader.report.summary import judged
from vader.report.verdict import Diagnosis
from vader.runs.folder import RunFolder

HOST = "127.0.0.1"
_DEPTH, _MOST = 6, 500
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Row:
    """A run in the list."""

    address: str
    """Below the token."""
    name: str
    subject: str
    verdict: Diagnosis
    done: str
    written: str


def find_runs(folder: Path) -> list[Path]:
    """The run folders in a folder, or the folder itself if it is one; links are not followed.

    Raises:
        RunFolderError: there is none.
    """
    found = list(_walk(folder, _DEPTH))[:_MOST]
    if not found:
        raise RunFolderError(f"{str(folder)!r} holds no run folder. Give one, or a folder above some.")
    return sorted(found)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    run = RunFolder(folder)
    if run.described and (run.metrics.exists() or run.samples.exists()):
        yield folder
    elif depth:
        try:
            inner = [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return
        for path in sorted(inner):
            if not Path(path).name.startswith("."):
                yield from _walk(Path(path), depth - 1)


class ReportServer(ThreadingHTTPServer):
    """Serves the list of the runs in a folder and their reports, and nothing else.

    Args:
        folder: of a run, or above some.
        port: 0 for any that is free.

    Raises:
        RunFolderError: there is no run.
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        find_runs(folder)
        self.folder, self.token = folder, secrets.token_urlsafe(16)
        self._kept: dict[Path, tuple[_Stamp, str]] = {}
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Of the list; of the report where the folder is a run."""
        runs = find_runs(self.folder)
        address = _address(runs[0]) if runs == [self.folder] else ""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/{address}"

    def hosts(self) -> set[str]:
        """What a browser on this machine says that it asks: pages elsewhere cannot reach us under another name."""
        return {f"{name}:{self.server_address[1]}" for name in (HOST, "localhost")}

    def page(self, path: str) -> str | None:
        """The page at a path of the URL; None where there is none."""
        _, token, *rest = path.partition("?")[0].split("/")
        if not secrets.compare_digest(token.encode(), self.token.encode()) or len(rest) != 1:
            return None
        runs = find_runs(self.folder)
        if rest == [""]:
            return fill("runs.html", folder=str(self.folder), rows=[_row(self.folder, run) for run in runs])
        chosen = next((run for run in runs if _address(run) == rest[0]), None)
        return self._report(chosen) if chosen is not None else None

    def _report(self, path: Path) -> str:
        """The report of a run, made anew when something in its folder has changed."""
        stamp = _stamp(path)
        if self._kept.get(path, ((), ""))[0] != stamp:
            run = read_run(path)
            self._kept = {path: (stamp, render(run, live=run.planned is not None and run.step < run.planned))}
        return self._kept[path][1]


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    server_version, sys_version = "vader", ""

    def do_GET(self) -> None:
        """A page, or 404."""
        try:
            page = self.server.page(self.path) if self.headers.get("Host") in self.server.hosts() else None
        except RunFolderError:  # it has gone
            page = None
        body = (page or "there is nothing here\n").encode("utf-8", errors="replace")
        self.send_response(HTTPStatus.OK if page is not None else HTTPStatus.NOT_FOUND)
        kind = "text/html" if page is not None else "text/plain"
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said of a request."""


def _address(run: Path) -> str:
    """Of a run, from its path."""
    return hashlib.sha256(os.fsencode(run)).hexdigest()[:16]


def _row(folder: Path, path: Path) -> Row:
    run = read_run(path)
    done = f"{run.step} of {run.planned}" if run.planned else str(run.step)
    summary = judged(run)[1]
    changed = max((at for _, at, _ in _stamp(path)), default=0)
    name = str(path.relative_to(folder)) if path != folder else path.resolve().name
    return Row(_address(path), name, summary.subject, summary.verdict, done, _ago(changed))


def _ago(moment: int) -> str:
    seconds = max(0.0, time.time() - moment / 1e9)
    return f"{duration(max(1.0, seconds))} ago" if seconds < 172_800 else f"{seconds / 86_400:.0f} days ago"


def _stamp(path: Path) -> _Stamp:
    """Changes when what a report is made from does: names, times (ns) and sizes."""
    folder = RunFolder(path)
    files = [folder.spec, folder.metrics, *sorted(folder.samples.glob("*/validation.json"))]
    found = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            continue
        found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)
