"""Broken plugins installed together: each is a row with its distribution, cause and fix, and none harms another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from tests.contracts.conftest import Install
from tests.integration.harness import ROOT, environment, tiny

import vader
from vader.errors import BrokenComponent, SpecError, UnknownComponent
from vader.plugins import selection
from vader.plugins.discovery import plugin_distributions
from vader.plugins.inventory import Row, rows
from vader.plugins.probe import probe
from vader.plugins.registry import GROUPS, NOT_INSTALLED, Entry, claims, find, load

GOOD = (
    "class Good:\n    differentiable = True\n    def score(self, frames, prompts): return frames.mean((1, 2, 3, 4))\n"
)

AT_IMPORT = {
    "zz-raises": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "zz-exits": ("raise SystemExit('bye')\n", "SystemExit: bye"),
    "zz-interrupts": ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    "zz-kills": ("import os\nos._exit(7)\n", "ended Python (exit code 7)"),
    "zz-number": ("Good = 3\n", "is 3, expected a class or a function"),
    "zz-hollow": ("class Good: pass\n", "class Good has no score"),
    "zz-late": ("if True:\n    import zz_absent\n", "No module named 'zz_absent'"),
}
"""What only importing shows: distribution -> source of its module, and what ``--check`` says."""

BY_READING = {
    "zz-lacks": ("import zz_absent\n" + GOOD, "broken", "it imports 'zz_absent', which is not installed"),
    "zz-syntax": ("def (\n", "broken", "SyntaxError in"),
    "zz-nameless": ("other = 1\n", "broken", "has no 'Good'"),
    "zz-future": (GOOD + "    api_version = 99\n", "incompatible", "written for version 99 of vader's protocols"),
}
"""What reading the source shows."""


def module(distribution: str) -> str:
    return distribution.replace("-", "_")


@pytest.fixture
def broken(install: Install) -> Install:
    """Every broken plugin there is, and a sound one."""
    for distribution, (source, *_) in {**AT_IMPORT, **BY_READING}.items():
        name = module(distribution)
        install(distribution, f"[vader.rewards]\n{name} = {name}:Good\n", **{name: source})
    install("zz-good", "[vader.rewards]\nzz_good = zz_good:Good\n", zz_good=GOOD)
    install("zz-hangs", "[vader.rewards]\nzz_hangs = zz_hangs:Good\n", zz_hangs="import time\ntime.sleep(600)\n")
    install("zz-form", "[vader.rewards]\nzz_form = no module: at all\n")
    install("zz-spelt", "[vader.rewards]\nZZ-Spelt = zz_spelt:Good\n", zz_spelt=GOOD)
    install("zz-old", "[vader.rewards]\nzz_old = zz_old:Good\n", zz_old=GOOD, requires="vader-core<0.0.1")
    for twin in ("zz-twin-a", "zz-twin-b"):
        install(twin, f"[vader.rewards]\nzz_twin = {module(twin)}:Good\n", **{module(twin): GOOD})
    install("zz-shadow", "[vader.samplers]\nddim = zz_shadow:Good\n", zz_shadow="raise SystemExit\n")
    install("zz-anonymous", "[vader.rewards]\nzz_anonymous = zz_anonymous:Good\n", metadata=False, zz_anonymous=GOOD)
    install("zz-listens", "[vader.plugins]\nzz_listens = zz_listens\n", zz_listens="raise SystemExit\n")
    return install


def by_distribution(listed: list[Row]) -> dict[str, Row]:
    return {row.distribution: row for row in listed if row.distribution.startswith("zz-")}


class TestRows:
    def test_name_what_metadata_and_source_show(self, broken: Install) -> None:
        found = by_distribution(rows())
        for distribution, (_, status, said) in BY_READING.items():
            assert found[distribution].status == status
            assert said in found[distribution].cause
            assert found[distribution].fix
        expected = {
            "zz-form": ("broken", "is not module:attribute"),
            "zz-spelt": ("broken", "no valid name"),
            "zz-old": ("incompatible", "it needs vader-core <0.0.1, and"),
            "zz-twin-a": ("clash", "zz-twin-b 1.2 claims the name too"),
            "zz-twin-b": ("clash", "zz-twin-a 1.2 claims the name too"),
            "zz-shadow": ("shadows", "that name belongs to vader-core"),
            "zz-anonymous": ("broken", "METADATA is missing"),
        }
        for distribution, (status, said) in expected.items():
            assert found[distribution].status == status, distribution
            assert said in found[distribution].cause
            assert found[distribution].fix
        assert found["zz-good"].status == "installed"
        assert found["zz-good"].capabilities == {"differentiable": True}

    def test_name_a_distribution_whose_bytes_cannot_be_read(self, install: Install) -> None:
        """Other libraries read entry points with the standard library, and fail; the list of components does not."""
        install("zz-bytes", b"[vader.rewards]\nzz_\xff\xfe = m:A\n")
        row = by_distribution(rows())["zz-bytes"]
        assert (row.status, row.kind) == ("broken", "distribution")
        assert "its entry_points.txt cannot be read (UnicodeDecodeError" in row.cause
        assert "pip install --force-reinstall zz-bytes" in row.fix
        assert find("sampler", "ddim").built_in

    def test_run_nothing_of_a_plugin(self, broken: Install) -> None:
        rows()
        assert not {name for name in sys.modules if name.startswith("zz_")}

    def test_after_importing_name_what_that_shows(self, broken: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vader.plugins.inventory.GROUPS", {"reward": "vader.rewards"})
        selection.set_disabled(frozenset({"zz-hangs"}))
        found = by_distribution(rows(check=True, timeout=120))
        for distribution, (_, said) in AT_IMPORT.items():
            assert found[distribution].status == "broken", distribution
            assert said in found[distribution].cause
            assert found[distribution].fix
        assert found["zz-good"].status == "ok"
        assert found["zz-lacks"].status == "broken"
        assert found["zz-future"].status == "incompatible"
        assert found["zz-hangs"].status == "disabled"
        assert found["zz-listens"].status == "broken"

    def test_of_a_plugin_that_hangs(self, broken: Install) -> None:
        entry = find("reward", "zz_hangs")
        report = probe([entry], timeout=2)[0]
        assert report.status == "broken"
        assert report.cause == "importing 'zz_hangs:Good' did not end within 2 s."

    def test_are_more_than_twelve_kinds(self, broken: Install) -> None:
        distributions = {found.name for found in plugin_distributions() if found.name.startswith("zz-")}
        assert len(distributions - {"zz-good"}) >= 12


class TestUse:
    @pytest.mark.parametrize("distribution", ["zz-raises", "zz-exits", "zz-lacks", "zz-syntax", "zz-number", "zz-form"])
    def test_of_what_does_not_load_names_its_distribution(self, broken: Install, distribution: str) -> None:
        name = module(distribution)
        with pytest.raises(BrokenComponent, match=rf"reward '{name}' of {distribution} 1\.2"):
            load("reward", name)

    def test_of_what_needs_another_vader_says_which(self, broken: Install) -> None:
        with pytest.raises(UnknownComponent) as caught:
            load("reward", "zz_old")
        assert "reward 'zz_old' of zz-old 1.2 takes no part: it needs vader-core <0.0.1" in str(caught.value)
        assert "pip install --upgrade zz-old" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "said"), [("zz_future", "version 99 of vader's protocols"), ("zz_hollow", "class Good has no score")]
    )
    def test_in_a_spec_is_a_problem_there(self, broken: Install, tmp_path: Path, name: str, said: str) -> None:
        selection.set_disabled(frozenset({"zz-shadow"}))
        with pytest.raises(SpecError) as caught:
            vader.check(tiny(tmp_path, rewards=[name]))
        assert f"rewards.0.name: reward {name!r} is refused: " in str(caught.value)
        assert said in str(caught.value)

    def test_of_a_built_in_name_gives_the_built_in_and_says_so(self, broken: Install) -> None:
        with pytest.warns(UserWarning, match=r"sampler 'ddim' of zz-shadow 1\.2 is not used"):
            assert load("sampler", "ddim").__module__ == "vader.diffusion.samplers.ddim"

    def test_of_a_sound_plugin_trains_in_the_midst_of_them(self, broken: Install, tmp_path: Path) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spec = tiny(tmp_path / "run", rewards=["zz_good"], train={"steps": 1, "warmup_steps": 0})
            result = vader.train(spec)
        assert result.step == 1
        said = {str(warning.message) for warning in caught if "zz" in str(warning.message)}
        assert any("listener zz_listens of zz-listens is left out" in text for text in said)


class TestChoice:
    def test_of_a_distribution_to_leave_out(self, broken: Install) -> None:
        selection.set_disabled(frozenset({"zz-twin-b"}))
        assert find("reward", "zz_twin").distribution == "zz-twin-a"
        assert by_distribution(rows())["zz-twin-a"].status == "installed"
        assert by_distribution(rows())["zz-twin-b"].status == "disabled"

    def test_of_a_component_to_leave_out(self, broken: Install) -> None:
        selection.set_disabled(frozenset({"reward:zz_good"}))
        with pytest.raises(UnknownComponent, match=r"it is disabled. Run 'vader plugins --enable reward:zz_good'"):
            load("reward", "zz_good")

    def test_of_the_only_ones_to_take_part(self, broken: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VADER_PLUGINS", "ZZ_Good, other")
        assert {entry.distribution for entry in claims("reward") if entry.refusal is None} == {"vader-core", "zz-good"}
        assert find("sampler", "ddim").built_in
        with pytest.raises(UnknownComponent, match="left out by VADER_PLUGINS"):
            find("reward", "zz_raises")

    def test_of_none_leaves_the_core(self, broken: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VADER_PLUGINS", "")
        assert [entry.name for entry in claims("reward") if entry.refusal is None] == ["latent"]  # the core's own
        assert find("sampler", "ddim").built_in

    def test_in_a_damaged_file_disables_nothing_and_says_so(self) -> None:
        selection.disabled_file().parent.mkdir(parents=True)
        selection.disabled_file().write_text("{")
        with pytest.warns(UserWarning, match="disables nothing"):
            assert selection.disabled() == frozenset()

    def test_that_is_strict_refuses_every_spec_and_names_all(
        self, install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        install("zz-raises", "[vader.rewards]\nzz_raises = zz_raises:Good\n", zz_raises="1 / 0\n")
        install("zz-syntax", "[vader.rewards]\nzz_syntax = zz_syntax:Good\n", zz_syntax="def (\n")
        monkeypatch.setattr("vader.plugins.inventory.GROUPS", {"reward": "vader.rewards"})
        vader.check(tiny(tmp_path))
        monkeypatch.setenv("VADER_STRICT", "1")
        with pytest.raises(BrokenComponent) as caught:
            vader.check(tiny(tmp_path))
        assert "reward 'zz_raises' of zz-raises 1.2: " in str(caught.value)
        assert "reward 'zz_syntax' of zz-syntax 1.2: " in str(caught.value)
        selection.set_disabled(frozenset({"zz-raises", "zz-syntax"} | others()))
        vader.check(tiny(tmp_path))


def others() -> set[str]:
    """Plugins of this environment, whatever state they are in."""
    return {found.name for found in plugin_distributions() if not found.name.startswith(("zz-", "vader-core"))}


class TestCommandLine:
    @pytest.fixture
    def command(self, broken: Install, tmp_path: Path) -> object:
        """Runs ``vader`` in another process, which sees the same plugins."""
        paths = [path for path in sys.path if str(tmp_path) in path]

        def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
            env = environment(**more)
            env["PYTHONPATH"] = os.pathsep.join([*paths, env["PYTHONPATH"]])
            command = [sys.executable, "-m", "vader", *arguments]
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)

        return run

    def test_helps_and_lists(self, command) -> None:  # type: ignore[no-untyped-def]
        helped = command("--help")
        assert helped.returncode == 0
        assert "check" in helped.stdout
        listed = command("plugins", "--json")
        assert listed.returncode == 0, listed.stderr
        found = {row["distribution"]: row for row in json.loads(listed.stdout)}
        assert {*AT_IMPORT, *BY_READING, "zz-anonymous", "zz-shadow"} <= found.keys()
        table = command("plugins")
        assert table.returncode == 0
        line = next(line for line in table.stdout.splitlines() if "zz-lacks" in line)
        assert "broken" in line
        assert "pip install --force-reinstall zz-lacks" in line

    def test_disables_and_enables(self, command) -> None:  # type: ignore[no-untyped-def]
        assert "Disabled: zz-good" in command("plugins", "--disable", "zz_good").stderr
        assert command("plugins", "--disable", "ddim").returncode == 2
        assert "nothing installed is called that" in command("plugins", "--disable", "zz-none").stderr
        assert "Disabled: nothing" in command("plugins", "--enable", "zz-good").stderr
        assert "is not disabled" in command("plugins", "--enable", "zz-good").stderr


def test_an_entry_says_what_it_is() -> None:
    assert str(Entry("reward", "a", "m:A", "dist", "1")) == "reward 'a' of dist 1"


def test_what_could_be_installed_is_what_the_plugins_of_this_repository_offer() -> None:
    kinds = {group: kind for kind, group in GROUPS.items()}
    offered: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "plugins").glob("*/pyproject.toml")):
        project = tomllib.loads(path.read_text())["project"]
        for group, entries in project.get("entry-points", {}).items():
            if group in kinds:
                offered.setdefault(kinds[group], {}).update(dict.fromkeys(entries, project["name"]))
    assert offered == NOT_INSTALLED
