"""An adapter given to others: the folder, its card, and its upload to a hub of the test's own."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from tests.integration.harness import PROMPT_LENGTH, command, tiny

import vader
from vader.errors import HubError, RunFolderError, SpecError, WeightsError
from vader.sharing import card, push, write_folder
from vader.sharing.folder import public
from vader.spec import RunSpec
from vader.spec.yaml_text import load
from vader.weights.lora import DIFFUSERS_FILE, PEFT_CONFIG, PEFT_FILE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "run"
    vader.train(tiny(folder, validation={"clips": 3, "save_clips": 2, "rewards": [PROMPT_LENGTH]}))
    return folder


def front_matter(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return data


def test_the_folder_holds_adapter_card_spec_and_clips(run: Path, tmp_path: Path) -> None:
    folder = write_folder(run, "me/bright", tmp_path / "bright", "apache-2.0")
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "spec.yaml", "clips.gif", PEFT_FILE, PEFT_CONFIG, DIFFUSERS_FILE} & names
    assert names >= {"README.md", "spec.yaml", "clips.gif", PEFT_FILE, PEFT_CONFIG}
    assert (folder / PEFT_FILE).read_bytes() == (run / "adapter" / PEFT_FILE).read_bytes()
    spec = RunSpec.model_validate(load((folder / "spec.yaml").read_text()))
    assert spec.output == "runs/bright"
    assert str(run) not in "".join(path.read_text() for path in (folder / "spec.yaml", folder / "README.md"))
    text = (folder / "README.md").read_text()
    assert front_matter(text)["license"] == "apache-2.0"
    assert front_matter(text)["tags"] == ["text-to-video", "lora", "vader"]
    for said in ("3 clips on", "| brightness | trained |", "(held out: not trained on)", f"hub:me/bright:{PEFT_FILE}"):
        assert said in text


def test_a_hub_model_is_named_as_the_base(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vader.sharing.card.base_model", lambda spec: "Owner/Model-1.3B")
    text = (write_folder(run, "me/bright", tmp_path / "bright") / "README.md").read_text()
    assert front_matter(text)["base_model"] == "Owner/Model-1.3B"
    assert "license" not in front_matter(text)
    if (tmp_path / "bright" / DIFFUSERS_FILE).is_file():
        assert 'pipeline.load_lora_weights("me/bright")' in text


@pytest.mark.parametrize(
    ("name", "licence"), [("bright", None), ("a/b/c", None), ("me/", None), ("me/x", "My own\nx: 1")]
)
def test_names_and_licences_that_are_none(run: Path, tmp_path: Path, name: str, licence: str | None) -> None:
    with pytest.raises(SpecError, match="expected"):
        write_folder(run, name, tmp_path / "out", licence)
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_or_in_the_way(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not the folder of a run"):
        write_folder(tmp_path, "me/x", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(RunFolderError, match="not empty"):
        write_folder(run, "me/x", tmp_path / "mine")
    empty = tmp_path / "begun"
    empty.mkdir()
    (empty / "spec.yaml").write_text((run / "spec.yaml").read_text())
    with pytest.raises(WeightsError, match="holds no adapter"):
        write_folder(empty, "me/x", tmp_path / "out")


def test_a_user_s_text_is_no_markup() -> None:
    assert card._text("a_b *c* <script> [x](y)") == r"a\_b \*c\* \<script\> \[x\](y)"
    assert card._code("a `b`\n# c") == "`a 'b' # c`"


def test_paths_of_this_machine_stay_here() -> None:
    given = {"a": ["/home/me/prompts.txt", "~/x/", "./near.py:Name"], "b": "C:\\data\\w.pt", "c": 1}
    assert public(given) == {"a": ["prompts.txt", "x", "./near.py:Name"], "b": "w.pt", "c": 1}


# -- upload


class FakeHub(ThreadingHTTPServer):
    """Takes what the hub's client sends to make a repository and commit small files."""

    def __init__(self) -> None:
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False
        super().__init__(("127.0.0.1", 0), _Hub)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Hub(BaseHTTPRequestHandler):
    server: FakeHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            hub.repositories.append(json.loads(body))
            answer = {"url": f"{hub.url}/me/bright"}
        elif self.path.endswith("/preupload/main"):
            named = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named]}
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {
                "commitUrl": f"{hub.url}/me/bright/commit/{'0' * 40}",
                "commitOid": "0" * 40,
                "pullRequestUrl": None,
            }
        data = json.dumps(answer if not hub.refuses else {"error": "You may not."}).encode()
        self.send_response(403 if hub.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()
        thread.join()


def test_upload(
    run: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(monkeypatch, capsys, "push", run, "me/bright", "--private")
    assert code == 0, err
    assert out.strip() == f"{hub.url}/me/bright"
    assert [one["name"] for one in hub.repositories] == ["bright"]
    assert "private" in json.dumps(hub.repositories[0])
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(monkeypatch, capsys, "push", run, "me/bright", "--dry-run")
    assert (code, out.strip()) == (0, "bright")
    written = {path.name: path.read_bytes() for path in Path("bright").iterdir()}
    assert hub.files == written, "a dry run writes what is uploaded"
    assert len(hub.repositories) == 1, "and asks the hub for nothing"


def test_a_hub_that_refuses_and_one_that_is_not_there(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.refuses = True
    with pytest.raises(HubError, match=r"cannot push to 'me/bright': .*hf auth login"):
        push(run, "me/bright")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"cannot push to 'me/bright': .*offline"):
        push(run, "me/bright")
