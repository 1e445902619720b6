"""What every distribution carries: licence, classifiers, a page that stands on its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vader.installing import FOLDERS

ROOT = Path(__file__).parents[2]
PAPER = "https://arxiv.org/abs/2407.08737"


def project(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]
    return found


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_the_licence_is_the_repositorys(folder: str) -> None:
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project(folder)["license-files"] == ["LICENSE"]
    assert project(folder)["license"] == "Apache-2.0"


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_metadata_says_what_it_is(folder: str) -> None:
    said = project(folder)
    assert said["urls"]["Paper"] == PAPER
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.13"} <= set(said["classifiers"])
    assert not [one for one in said["classifiers"] if one.startswith("License ::")]  # said by license alone
    assert said["description"].strip()


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_its_page_stands_on_its_own(folder: str) -> None:
    text = (ROOT / folder / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    assert PAPER in text
    assert "aligns text-to-video diffusion models" in text
    assert text.startswith(f"# {project(folder)['name']}\n")
    named = re.findall(r"`(docs/[\w/-]+\.md)`", text)
    assert [page for page in named if not (ROOT / page).is_file()] == []


@pytest.mark.parametrize("name", FOLDERS)
def test_a_page_installs_what_there_is(name: str) -> None:
    """By folders of a checkout, those that it needs included; no name that an index would have to know."""
    text = (ROOT / FOLDERS[name] / "README.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith("pip install")]
    assert lines
    for line in lines:
        folders = [word.strip("'").split("[")[0] for word in line.split()[2:]]
        assert f"./{FOLDERS[name]}" in folders
        assert all((ROOT / folder / "pyproject.toml").is_file() for folder in folders)
