"""Reports over HTTP: on this machine, below a token, and nothing else."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.harness import command, environment

from vader.errors import RunFolderError
from vader.report.server import ReportServer, find_runs
from vader.spec import RunSpec

SPEC = {"backbone": "tiny", "prompts": "list", "rewards": ["green"], "train": {"steps": 4}}


def make_run(folder: Path, steps: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(RunSpec.model_validate(SPEC).to_yaml())
    lines = [json.dumps({"step": step, "reward": step / 2}) + "\n" for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, one in a folder of its own, beside what is none."""
    make_run(tmp_path / "runs" / "one", 4)
    make_run(tmp_path / "runs" / "more" / "<two>", 2)
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "linked").symlink_to(make_run(tmp_path / "elsewhere", 1))
    return tmp_path / "runs"


@pytest.fixture
def server(runs: Path) -> Iterator[ReportServer]:
    with ReportServer(runs) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ReportServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status != 200 or answer.getheader("Cache-Control") == "no-store"
    return answer.status, text


def links(page: str) -> dict[str, str]:
    return {name: address for address, name in re.findall(r'<a href="(\w+)">([^<]+)</a>', page)}


def test_the_list_and_each_report(server: ReportServer, runs: Path) -> None:
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{server.token}/"
    status, page = get(server, f"/{server.token}/")
    assert status == 200
    found = links(page)
    assert set(found) == {"one", "more/&lt;two&gt;"}, "links are not followed, other folders not listed"
    assert "2 of 4" in page
    status, done = get(server, f"/{server.token}/{found['one']}")
    assert (status, "<body>" in done) == (200, True)
    status, open_ = get(server, f"/{server.token}/{found['more/&lt;two&gt;']}")
    assert (status, "data-written" in open_) == (200, True), "an unfinished run's page reloads itself"
    with (runs / "more" / "<two>" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "reward": 0.1}\n')
    assert "3 of 4" in get(server, f"/{server.token}/{found['more/&lt;two&gt;']}")[1]
    assert not (runs / "one" / "report.html").exists(), "it writes nothing"


@pytest.mark.parametrize(
    "path",
    ["/", "/TOKEN", "/wrong/", "/TOKEN/spec.yaml", "/TOKEN/../one/spec.yaml", "/TOKEN/one", "/TOKEN/%2e%2e/notes.txt"],
)
def test_nothing_else_is_served(server: ReportServer, path: str) -> None:
    assert get(server, path.replace("TOKEN", server.token)) == (404, "there is nothing here\n")


def test_only_this_machine_asks(server: ReportServer) -> None:
    port = server.server_address[1]
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, f"/{server.token}/", f"localhost:{port}")[0] == 200
    assert get(server, f"/{server.token}/", f"evil.example:{port}")[0] == 404
    assert get(server, f"/{server.token}/", method="POST")[0] == 501


def test_a_run_s_own_folder_opens_its_report(runs: Path) -> None:
    with ReportServer(runs / "one") as server:
        address = server.url.rsplit("/", 1)[1]
        assert address
        assert "run one" in (server.page(f"/{server.token}/{address}") or "")


def test_a_folder_without_runs_and_a_port_that_is_taken(
    tmp_path: Path, server: ReportServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match="holds no run folder"):
        find_runs(tmp_path / "empty")
    port = server.server_address[1]
    code, _, err = command(monkeypatch, capsys, "report", server.folder, "--serve", "--port", port)
    assert code == 2
    assert f"cannot listen on port {port} of this machine" in err


def test_the_command_serves_until_it_is_interrupted(runs: Path) -> None:
    command = [sys.executable, "-c", SIGNALS + "runpy.run_module('vader', run_name='__main__', alter_sys=True)"]
    words = ["report", str(runs), "--serve"]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert b"Runs in" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("ended.\n")
    assert process.returncode == 0


SIGNALS = "import runpy, signal, sys; sys.argv[0] = 'vader'; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""Else a test that is itself in the background would leave the interrupt ignored."""
