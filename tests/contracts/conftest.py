"""Distributions made of nothing but metadata and a module, put on the path for one test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or changes, what the user has disabled."""
    monkeypatch.setenv("VADER_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("VADER_PLUGINS", "VADER_STRICT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("dist", "[vader.rewards]\\na = m:A", m="source")`` puts a distribution on ``sys.path``."""
    modules = set(sys.modules)

    def add(
        distribution: str,
        points: str | bytes,
        version: str = "1.2",
        requires: str = "",
        metadata: bool = True,
        **sources: str,
    ) -> Path:
        folder = tmp_path / "plugins" / distribution
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        if metadata:
            (info / "METADATA").write_text(head + (f"Requires-Dist: {requires}\n" if requires else ""))
        (info / "entry_points.txt").write_bytes(points if isinstance(points, bytes) else points.encode())
        for module, source in sources.items():
            (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield add
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
