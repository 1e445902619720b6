"""Every code block of README and docs is executed, page by page, in a folder of its own.

A block with ``title="..."`` is written to that file. A YAML block is judged as (part of) a spec. A shell block runs;
its ``pip`` installs local folders into that page's own place and sees that other requirements are there. Of pages
whose commands need large weights or the network (README, and those outside :data:`RUN`), the shell lines that call
``vader`` are parsed by its own command line, and the rest is what CI itself runs; so are those of pages that are
:data:`COSTLY`, but in ``nox -s slow``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests import warm
from tests.integration.harness import environment, merged

import vader
from vader.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "adr" not in path.parts),
]
COSTLY = [f"docs/how-to/{name}.md" for name in ("broken-plugins", "check", "many-gpus", "memory", "new-family", "see")]
COSTLY.append("docs/tutorial.md")
"""Pages whose commands and Python `nox -s slow` runs; otherwise they are parsed."""
APART = "docs/how-to/environments.md"
"""The page whose commands make environments of their own: the nox session `engines` does that."""

RUN = ["docs/tutorial.md", "docs/index.md", *(page for page in PAGES if page.startswith("docs/how-to/"))]
RUN.remove(APART)
"""Pages whose shell blocks run."""

BASE = {"backbone": "shapes", "prompts": "shapes", "rewards": ["shapes_colourfulness"]}
"""What a YAML block is laid over."""

PIP = """#!{python}
import importlib.metadata, pathlib, re, subprocess, sys, tomllib
words = [word for word in sys.argv[2:] if not word.startswith("-")]
assert sys.argv[1] == "install" and words, sys.argv
for word in words:
    if own := re.match(r"\\./(vader_core|plugins/\\w+)", word):  # of this repository, and there
        manifest = pathlib.Path({root!r}, own[1], "pyproject.toml").read_text()
        importlib.metadata.version(tomllib.loads(manifest)["project"]["name"])
    elif "/" in word:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        subprocess.run([*install, "--target", {site!r}, word], check=True)
    else:
        importlib.metadata.version(re.match(r"[\\w.-]+", word)[0])
"""


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    line: int
    language: str
    title: str | None
    text: str


def blocks(page: str) -> list[Block]:
    found: list[Block] = []
    inside: tuple[int, str, str | None] | None = None
    lines: list[str] = []
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        fence = re.fullmatch(r'```(\w*)(?: title="([^"]+)")?', line)
        if fence and inside is None:
            inside, lines = (number, fence[1], fence[2]), []
        elif line == "```" and inside is not None:
            found.append(Block(*inside, "\n".join(lines) + "\n"))
            inside = None
        elif inside is not None:
            lines.append(line)
    assert inside is None, f"{page}: the block at line {inside} is not closed"
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of :mod:`tests.warm`."""
    where = tmp_path_factory.mktemp("warm") / "socket"
    process = subprocess.Popen([sys.executable, "-m", "tests.warm", str(where)], cwd=ROOT, env=environment())
    while not where.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield where
    process.kill()
    process.wait()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Path) -> Path:
    """The folder of a page, with ``pip``, ``vader`` and ``pytest`` on the path, and ``run-python CODE``."""
    tools, work, site = tmp_path / "tools", tmp_path / "work", tmp_path / "site"
    for folder in (tools, work, site):
        folder.mkdir()
    (tools / "pip").write_text(PIP.format(python=sys.executable, site=str(site), root=str(ROOT)))
    for name, module in {"vader": "vader", "run-python": "-c"}.items():
        warm.client(tools / name, module, server)
    (tools / "pytest").write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest "$@"\n')
    (tools / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (work / "examples").symlink_to(ROOT / "examples")
    for key, value in environment(VADER_CONFIG_HOME=str(tmp_path / "config")).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PATH", os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.chdir(work)
    return work


def execute(page: str, block: Block, runs: bool) -> None:
    """Do with a block what its language asks for; ``runs`` says whether its commands run."""
    where = f"{page}, line {block.line}"
    if block.title is not None:
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    if block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "json":
        json.loads(block.text)
    elif block.title == "sky.yaml":
        sky(block, where, runs)
    elif block.language == "yaml":
        judge(yaml.safe_load(block.text))
    elif block.language == "sh":
        shell(block, where, runs)
    elif block.language == "python":
        compile(block.text, where, "exec")
        if block.title is None and (runs or page not in COSTLY):
            run(["run-python", block.text], where)
    else:
        raise AssertionError(f"{where}: a block of {block.language or 'no language'} is not executed")


def sky(block: Block, where: str, runs: bool) -> None:
    """A task of SkyPilot: what it runs, on one machine."""
    task = yaml.safe_load(block.text)
    assert task.keys() == {"num_nodes", "resources", "setup", "run"}
    said = {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NUM_GPUS_PER_NODE": "2", "SKYPILOT_NODE_IPS": "127.0.0.1"}
    exported = "".join(f"export {name}={value}\n" for name, value in said.items())
    if runs:
        run(["bash", "-euo", "pipefail", "-c", exported + task["run"]], where)


def judge(part: Any) -> None:
    """A whole spec, or a part of one laid over :data:`BASE`."""
    assert isinstance(part, dict)
    vader.check(part if {"backbone", "prompts"} <= part.keys() else merged(BASE, part))


def shell(block: Block, where: str, runs: bool) -> None:
    if runs:
        run(["bash", "-euo", "pipefail", "-c", block.text], where)
        return
    command = typer.main.get_command(app)
    tools = ("nox", "pip install", "pip uninstall", "python -m ", "torchrun", "export ", "pytest ")
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "vader" in words:
            name, *arguments = words[len(words) - words[::-1].index("vader") :]
            command.commands[name].make_context(f"vader {name}", arguments)  # type: ignore[attr-defined]
        elif words:
            assert any(tool in line for tool in tools), f"{where}: {line}"


def run(command: list[str], where: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{where}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


CASES = [
    *((page, page in RUN and page not in COSTLY) for page in PAGES),
    *(pytest.param(page, True, marks=pytest.mark.slow) for page in COSTLY),
]


@pytest.mark.parametrize(("page", "runs"), CASES)
def test_every_block_works(page: str, runs: bool, place: Path) -> None:
    found = blocks(page)
    for block in found:
        if page == "README.md" and block.language == "python" and "class Brightness" in block.text:
            (place / "brightness.py").write_text(block.text)
    if page.endswith("isolate.md"):  # the file is shown after the spec that names it
        found.sort(key=lambda block: block.language != "python")
    if page == APART:
        python = place / "groundingdino" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    for block in found:
        execute(page, block, runs)


def test_the_tutorial_ends_with_a_tested_package_and_a_report(place: Path) -> None:
    """The tutorial again as one reading: what it promises is there."""
    page = "docs/tutorial.md"
    titles = {block.title for block in blocks(page) if block.title}
    assert titles >= {
        "warmth.py",
        "run.yaml",
        "vader-plugin-warm-colours/src/vader_warm_colours/reward.py",
        "vader-plugin-warm-colours/tests/test_warm_colours.py",
    }
    commands = "".join(block.text for block in blocks(page) if block.language == "sh")
    for command in ("vader check", "vader train run.yaml", "vader plugin new reward", "pytest", "vader plugins"):
        assert command in commands


def test_pages_of_reference_name_every_public_module() -> None:
    text = "".join((ROOT / page).read_text() for page in PAGES if page.startswith("docs/reference/"))
    protocols = [f"protocols.{room}" for room in ("components", "values", "capabilities", "abilities", "methods")]
    plugins = [f"plugins.{room}" for room in ("registry", "selection", "inventory")]
    for module in ("spec", "errors", "runs.events", "testing", *protocols, *plugins):
        assert f"::: vader.{module}\n" in text
