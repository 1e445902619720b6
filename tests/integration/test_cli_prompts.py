"""``vader prompts``: what it lists, what it prints, and what it says when a name or a plugin is wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.harness import command

from vader.prompts.file import FilePrompts, read_prompts

PLUGIN = '''
import vader

class Weather:
    """Prompts about the weather."""

    @classmethod
    def named_sets(cls):
        return {"storms": [vader.Prompt("a storm at sea", {"place": "sea"}), vader.Prompt("[1] # odd"),
                           vader.Prompt("hail")],
                "calm": [vader.Prompt("a still lake")]}

    def draw(self, n, rng):
        return [vader.Prompt("hail")] * n

class Rival(Weather):
    """More of it."""

    @classmethod
    def named_sets(cls):
        return {"calm": [vader.Prompt("no wind")]}

class Raises(Weather):
    @classmethod
    def named_sets(cls):
        raise OSError("disk gone")

class Wrong(Weather):
    @classmethod
    def named_sets(cls):
        return {"calm": ["only text"]}
'''
Install = Callable[[str], None]
Vader = Callable[..., tuple[int, str, str]]
POINTS = "[vader.prompts]\nzz_weather = zz_weather:Weather\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("[vader.prompts]...")`` puts the plugin on the path with these entry points."""
    monkeypatch.setenv("VADER_CONFIG_HOME", str(tmp_path / "config"))

    def add(points: str) -> None:
        info = tmp_path / "plugin" / "zz_weather-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-weather\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        (info.parent / "zz_weather.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(str(info.parent))

    yield add
    sys.modules.pop("zz_weather", None)


@pytest.fixture
def vader(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vader:
    return lambda *arguments: command(monkeypatch, capsys, "prompts", *arguments)


def test_lists_sources_and_sets(install: Install, vader: Vader) -> None:
    install(POINTS)
    code, out, _ = vader()
    lines = out.splitlines()
    assert code == 0
    assert "list  (vader-core)  Draws from the prompts given in its options, each as often as its weight says." in lines
    at = lines.index("zz_weather  (zz-weather)  Prompts about the weather.")
    assert lines[at + 1].split(maxsplit=2) == ["storms", "3", "a storm at sea"]
    assert lines[at + 2].split(maxsplit=2) == ["calm", "1", "a still lake"]


def test_lists_as_json(install: Install, vader: Vader) -> None:
    install(POINTS)
    code, out, _ = vader("--json")
    rows = {row["source"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["file"]["sets"] == []
    assert rows["zz_weather"] == {
        "source": "zz_weather",
        "distribution": "zz-weather",
        "about": "Prompts about the weather.",
        "status": "ok",
        "sets": [
            {"name": "storms", "prompts": 3, "example": "a storm at sea"},
            {"name": "calm", "prompts": 1, "example": "a still lake"},
        ],
    }


@pytest.mark.parametrize("name", ["storms", "zz_weather:storms"])
def test_what_it_prints_is_a_file_of_prompts(install: Install, vader: Vader, tmp_path: Path, name: str) -> None:
    install(POINTS)
    code, out, _ = vader(name)
    assert code == 0
    (tmp_path / "storms.txt").write_text(out)
    expected = ["a storm at sea", "[1] # odd", "hail"]
    assert read_prompts(tmp_path / "storms.txt") == expected
    drawn = FilePrompts(FilePrompts.Options(path=str(tmp_path / "storms.txt"))).draw(3, random.Random(0))
    assert sorted(prompt.text for prompt in drawn) == sorted(expected)


def test_prints_a_set_as_json(install: Install, vader: Vader) -> None:
    install(POINTS)
    code, out, _ = vader("storms", "--json")
    assert code == 0
    assert json.loads(out)[0] == {"text": "a storm at sea", "metadata": {"place": "sea"}}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strms", "no set of prompts is called 'strms'. Did you mean 'storms'"),
        ("zz_weather:strms", "Did you mean 'zz_weather:storms'"),
        ("zz_weather", "'zz_weather' is a prompt source; its sets are storms, calm."),
        ("list", "'list' is a prompt source; it has no named sets."),
        ("qqqqqq", "no set of prompts is called 'qqqqqq'. 'vader prompts' lists all"),
    ],
)
def test_a_name_that_is_none(install: Install, vader: Vader, name: str, said: str) -> None:
    install(POINTS)
    code, out, err = vader(name)
    assert (code, out) == (2, "")
    assert said in err


def test_a_name_of_two_sets(install: Install, vader: Vader) -> None:
    install(f"{POINTS}zz_rival = zz_weather:Rival\n")
    code, _, err = vader("calm")
    assert code == 2
    assert "several prompt sources have a set 'calm'. Name one of zz_rival:calm, zz_weather:calm." in err
    assert vader("zz_rival:calm")[1] == "no wind\n"


def test_a_broken_source_stops_no_other(install: Install, vader: Vader) -> None:
    broken = "zz_away = zz_nowhere:X\nzz_raises = zz_weather:Raises\nzz_wrong = zz_weather:Wrong\n"
    install(POINTS + broken)
    code, out, _ = vader()
    assert code == 0
    assert "zz_away  (zz-weather)  broken: prompts 'zz_away' of zz-weather 1.0 fails to load" in out
    assert "named_sets of prompts 'zz_raises' of zz-weather 1.0 raised OSError: disk gone." in out
    assert "zz_wrong  (zz-weather)  broken: named_sets of prompts 'zz_wrong'" in out
    assert "a storm at sea" in out
    statuses = {row["source"]: row["status"] for row in json.loads(vader("--json")[1])}
    assert {name for name, status in statuses.items() if status == "broken"} == {"zz_away", "zz_raises", "zz_wrong"}


def test_the_listing_imports_nothing_heavy() -> None:
    """Every source of the project is imported for it; none of them may bring torch."""
    heavy = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
    code = (
        "import sys; from vader.cli import prompts; assert len(prompts.installed()) >= 2\n"
        f"print([module for module in {heavy} if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
