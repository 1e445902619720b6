"""Code in other people's files: what a spec or a run folder names is not run without a word."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.harness import FAKES
from transformers import AutoTokenizer

import vader
from vader import sdk
from vader.cli import app as cli
from vader.errors import SpecError, WeightsError
from vader.resolve.trust import Trust
from vader.resolve.validate import resolve
from vader.runs.launch import relaunch
from vader.runs.session import open_session
from vader.spec.reading import SpecSource
from vader.weights.pipeline_folder import PipelineFolder

SHAPES = {"backbone": "shapes", "prompts": "shapes", "rewards": ["shapes_motion"]}
EVIL = """
import pathlib
pathlib.Path({ran!r}).write_text("ran")


class Mine:
    def score(self, frames, prompts):
        return frames.mean((1, 2, 3, 4))

    def draw(self, n, rng):
        return []
"""


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there when the code has run; the code is ``elsewhere/evil.py``."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "specs").mkdir()
    ran = tmp_path / "ran"
    (tmp_path / "elsewhere" / "evil.py").write_text(EVIL.format(ran=str(ran)))
    return ran


def write(folder: Path, data: dict[str, Any], name: str = "run.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(data))
    return folder / name


def evil(ran: Path) -> str:
    return f"{ran.parent}/elsewhere/evil.py:Mine"


PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "rewards.0.name": lambda code: {"rewards": [code]},
    "validation.rewards.0.name": lambda code: {"validation": {"rewards": [{"name": code}]}},
    "prompts.name": lambda code: {"prompts": code},
    "validation.prompts.name": lambda code: {"validation": {"prompts": {"name": code}}},
    "backbone.name": lambda code: {"backbone": code},
    "sampler.name": lambda code: {"sampler": {"name": code}},
    "method.name": lambda code: {"method": {"name": code}},
    "rewards.0.isolate.python": lambda code: {
        "rewards": [{"name": "shapes_motion", "isolate": {"python": code.partition(":")[0]}}]
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_code_outside_the_specs_folder_is_asked_for(ran: Path, place: str) -> None:
    spec = write(ran.parent / "specs", {**SHAPES, **PLACES[place](evil(ran))})
    for judged in (lambda: vader.check(spec), lambda: vader.train(spec), lambda: vader.evaluate(spec)):
        with pytest.raises(SpecError) as caught:
            judged()
        assert not ran.exists()
        said = str(caught.value)
        assert place in said
        assert f"it would run '{ran.parent}/elsewhere/evil.py', which lies outside the folder of the spec" in said
        assert "--trust-code (in Python trust_code=True)" in said


def test_it_runs_when_that_is_said(ran: Path) -> None:
    spec = write(ran.parent / "specs", {**SHAPES, "rewards": [evil(ran)]})
    vader.check(spec, trust_code=True)
    assert ran.exists()


def test_code_in_the_specs_own_folder_runs(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ran.parent / "elsewhere")
    vader.check(write(ran.parent / "elsewhere", {**SHAPES, "rewards": ["./evil.py:Mine"]}))
    assert ran.exists()


def test_a_link_in_the_folder_leads_outside(ran: Path) -> None:
    (ran.parent / "specs" / "mine.py").symlink_to(ran.parent / "elsewhere" / "evil.py")
    spec = write(ran.parent / "specs", {**SHAPES, "rewards": [f"{ran.parent}/specs/mine.py:Mine"]})
    with pytest.raises(SpecError, match=r"elsewhere/evil\.py', which lies outside"):
        vader.check(spec)
    assert not ran.exists()


def test_a_path_with_dots_leads_outside(ran: Path) -> None:
    code = f"{ran.parent}/specs/../elsewhere/evil.py:Mine"
    with pytest.raises(SpecError, match="lies outside"):
        vader.check(write(ran.parent / "specs", {**SHAPES, "rewards": [code]}))
    assert not ran.exists()


def test_what_the_user_names_is_the_users(ran: Path) -> None:
    spec = write(ran.parent / "specs", {**SHAPES, "rewards": ["shapes_motion"]})
    vader.check(spec, [f"rewards.0.name={evil(ran)}"])
    assert ran.exists()
    ran.unlink()
    vader.check({**SHAPES, "rewards": [evil(ran)]})


def test_an_override_of_something_else_gives_no_trust(ran: Path) -> None:
    spec = write(ran.parent / "specs", {**SHAPES, "rewards": [evil(ran)]})
    with pytest.raises(SpecError, match="lies outside"):
        vader.check(spec, ["rewards.0.weight=2", "train.steps=3"])
    assert not ran.exists()


@pytest.mark.parametrize("command", [["train", "--dry-run"], ["train"], ["evaluate"], ["estimate"]])
def test_the_command_line_asks(
    ran: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write(ran.parent / "specs", {**SHAPES, "rewards": [evil(ran)]})
    monkeypatch.setattr(sys, "argv", ["vader", command[0], str(spec), *command[1:]])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "it would run" in capsys.readouterr().err
    assert not ran.exists()


@pytest.fixture
def run(ran: Path) -> Path:
    """The folder of a run with an unpackaged reward."""
    folder = ran.parent / "run"
    folder.mkdir()
    write(folder, {**SHAPES, "rewards": [evil(ran)]}, "spec.yaml")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    (folder / "adapter").mkdir()
    return folder


def test_a_run_of_ones_own_runs_what_it_ran_before(ran: Path, run: Path) -> None:
    resolve(run / "spec.yaml")
    assert ran.exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("given", ["spec.yaml", "."])
def test_a_run_folder_of_another_user_is_asked_for(ran: Path, run: Path, given: str) -> None:
    os.chown(run / given, 12345, 12345)
    with pytest.raises(SpecError, match=r"it would run .*evil\.py', and .* is another user's"):
        resolve(run / "spec.yaml")
    assert not ran.exists()
    resolve(run / "spec.yaml", trust_code=True)
    assert ran.exists()


def test_making_clips_looks_at_no_reward(ran: Path, run: Path) -> None:
    """Neither its own nor the validation's, isolated or not; not even one that is not there."""
    broken = {"rewards": [evil(ran), {"name": "nowhere"}, {"name": "x", "isolate": {"python": "/no/python"}}],
              "validation": {"rewards": ["nothing"]}}  # fmt: skip
    write(run, {**SHAPES, **broken}, "spec.yaml")
    session = open_session(run / "spec.yaml", (), None, scored=False)
    assert not ran.exists()
    assert session.plan.rewards == {}
    (clip,) = vader.generate(run / "spec.yaml", ["a red circle"], overrides=["sampler.steps=1"])
    assert clip.frames.shape[1] == 3


# -- the same kinds where the issue does not name them


def attack(folder: Path) -> Path:
    """A folder with a module of the standard library's name in it; the file that is there when it has run."""
    folder.mkdir()
    for name in ("json", "socket", "torch"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nraise SystemExit('mine')\n")
    return folder / "ran"


def test_no_process_of_a_run_imports_what_lies_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of ``--processes`` nor that of an isolated reward."""
    ran = attack(tmp_path / "current")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path / "current"))])
    assert relaunch(["plugins", "--help"], 1, "") == 0
    isolated = [{"name": f"{FAKES}:Brightness", "isolate": {"python": sys.executable}}]
    vader.check({**SHAPES, "rewards": isolated})
    assert not ran.exists()


@pytest.mark.parametrize("said", ["python", "env/python"], ids=["link", "in a linked folder"])
def test_an_interpreter_that_a_link_leads_to_is_asked_for(ran: Path, said: str) -> None:
    specs, elsewhere = ran.parent / "specs", ran.parent / "elsewhere"
    (elsewhere / "python").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (elsewhere / "python").chmod(0o755)
    (specs / "python").symlink_to(elsewhere / "python")
    (specs / "env").symlink_to(elsewhere)
    isolated = {"name": "shapes_motion", "isolate": {"python": str(specs / said)}}
    with pytest.raises(SpecError, match=r"it would run '\S*/elsewhere/python', which lies outside"):
        vader.check(write(specs, {**SHAPES, "rewards": [isolated]}))
    assert not ran.exists()


def test_the_interpreter_of_an_environment_in_the_folder_may_be_a_link(ran: Path) -> None:
    """As in every virtual environment."""
    env = ran.parent / "specs" / "env"
    (env / "bin").mkdir(parents=True)
    (env / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).parent}\n")
    (env / "bin" / "python").symlink_to(sys.executable)
    trust = Trust(SpecSource({}, str(ran.parent / "specs" / "run.yaml")), given=False)
    assert trust.objection(("rewards", 0), "x", {"python": str(env / "bin" / "python")}) is None


def test_a_models_folder_with_code_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library's question whether it may run, whatever the answer would be."""
    sdk.byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    settings = tmp_path / "tokenizer" / "tokenizer_config.json"
    more = {"auto_map": {"AutoTokenizer": ["evil.Mine", "evil.Mine"]}, "tokenizer_class": "Mine"}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **more}))
    ran = tmp_path / "ran"
    (tmp_path / "tokenizer" / "evil.py").write_text(EVIL.format(ran=str(ran)))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\ny\n"))
    folder = PipelineFolder((), lambda index, name: None, "Fetch it.")
    with pytest.raises(WeightsError, match="it asks to run code of its own, which is never done") as caught:
        folder.tokenizer(AutoTokenizer, tmp_path, "a/model")
    assert "trust_remote_code" not in str(caught.value)
    assert not ran.exists()
