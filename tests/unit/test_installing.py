"""The command of a message installs what it says, from where vader itself came."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vader import installing
from vader.installing import FOLDERS, NEEDS, Checkout, Git, install_command, origin
from vader.plugins.catalog import OFFERED

ROOT = Path(__file__).parents[2]
ADDRESS = "git+https://example.org/owner/vader.git"


def come_from(monkeypatch: pytest.MonkeyPatch, source: Checkout | Git | None) -> None:
    monkeypatch.setattr(installing, "origin", lambda: source)


def test_every_distribution_of_the_project_has_its_folder() -> None:
    assert FOLDERS.keys() == {"vader-core", *OFFERED}
    for name, folder in FOLDERS.items():
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["name"] == name
        own = {line.split(">")[0] for line in project["dependencies"]} & FOLDERS.keys() - {"vader-core"}
        assert own == set(NEEDS.get(name, ()))


def test_from_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    come_from(monkeypatch, Checkout(ROOT, editable=False))
    command = install_command("vader-plugin-rewards[clip]", "--upgrade")
    assert shlex.split(command) == ["pip", "install", "--upgrade", "./plugins/vader_rewards[clip]"]
    monkeypatch.chdir(tmp_path)
    come_from(monkeypatch, Checkout(ROOT, editable=True))
    assert shlex.split(install_command("vader-core[wandb]"))[2:] == ["--editable", f"{ROOT / 'vader_core'}[wandb]"]


def test_with_what_it_needs_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    come_from(monkeypatch, Git(ADDRESS, "main"))
    monkeypatch.setattr(installing, "_installed", lambda name: False)
    words = shlex.split(install_command("vader-plugin-shapes"))
    assert words[2:] == [
        f"vader-plugin-diffusers @ {ADDRESS}@main#subdirectory=plugins/vader_diffusers",
        f"vader-plugin-shapes @ {ADDRESS}@main#subdirectory=plugins/vader_shapes",
    ]
    monkeypatch.setattr(installing, "_installed", lambda name: True)
    assert len(shlex.split(install_command("vader-plugin-shapes"))) == 3


def test_by_name_where_vader_was(monkeypatch: pytest.MonkeyPatch) -> None:
    come_from(monkeypatch, None)
    assert install_command("vader-plugin-modelscope") == "pip install vader-plugin-modelscope"
    assert install_command("vader-core[wandb]") == "pip install 'vader-core[wandb]'"


def test_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    come_from(monkeypatch, Git(ADDRESS, "main"))
    assert (
        install_command("vader-plugin-glow", "--force-reinstall") == "pip install --force-reinstall vader-plugin-glow"
    )
    assert install_command("glow==1.2") == "pip install glow==1.2"


def test_this_is_a_checkout() -> None:
    assert origin() == Checkout(ROOT, editable=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"url": "file:///src/vader/vader_core", "dir_info": {}}, Checkout(Path("/src/vader"), editable=False)),
        (
            {"url": "file:///a%20b/vader_core", "dir_info": {"editable": True}},
            Checkout(Path("/a b"), editable=True),
        ),
        (
            {
                "url": "https://example.org/owner/vader.git",
                "subdirectory": "vader_core",
                "vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "abc"},
            },
            Git(ADDRESS, "v1"),
        ),
        (
            {"url": "https://example.org/owner/vader.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            Git(ADDRESS, "abc"),
        ),
        ({"url": "file:///wheels/vader_core-0.1.0-py3-none-any.whl", "archive_info": {}}, None),
        (None, None),
        ("no JSON", None),
        ([], None),
    ],
)
def test_what_an_installer_recorded(monkeypatch: pytest.MonkeyPatch, said: Any, expected: Any) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return said if said is None or isinstance(said, str) else json.dumps(said)

    monkeypatch.setattr(installing, "__file__", "/site-packages/vader/installing.py")
    monkeypatch.setattr(installing, "distribution", lambda name: Installed())
    assert origin() == expected


def test_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(installing, "__file__", "/site-packages/vader/installing.py")
    monkeypatch.setattr(installing, "distribution", missing)
    assert origin() is None
