"""Registries: what is found without importing anything, and what is said when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vader.errors import AmbiguousComponent, BrokenComponent, RegistryError, UnknownComponent
from vader.plugins.registry import entries, find, load

Install = Callable[..., Path]

GOOD = """
class Good:
    pass
value = 3
def function(frames, prompts):
    return frames
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts distributions on sys.path: ``install("dist", points, module="...")``."""
    modules = set(sys.modules)

    def add(distribution: str, points: str, version: str = "1.2", **sources: str) -> Path:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(points)
        for module, source in sources.items():
            (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield add
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def reward(line: str) -> str:
    return f"[vader.rewards]\n{line}\n"


class TestDiscovery:
    def test_lists_the_built_ins(self) -> None:
        assert {"ddim", "flow_euler", "diffusers"} <= {entry.name for entry in entries("sampler")}
        assert {"list", "file"} <= {entry.name for entry in entries("prompts")}

    def test_reads_metadata_and_imports_nothing(self, install: Install) -> None:
        install("dist-a", reward("zz_boom = zz_boom_module:Reward"), zz_boom_module="raise SystemExit('imported')")
        entry = find("reward", "zz_boom")
        assert (entry.distribution, entry.version, entry.value) == ("dist-a", "1.2", "zz_boom_module:Reward")
        assert "zz_boom_module" not in sys.modules

    def test_keeps_kinds_apart(self, install: Install) -> None:
        install("dist-a", reward("zz_good = zz_good_module:Good"), zz_good_module=GOOD)
        assert "zz_good" not in {entry.name for entry in entries("sampler")}
        with pytest.raises(UnknownComponent, match="no sampler is called 'zz_good'"):
            find("sampler", "zz_good")

    def test_is_sorted_by_name(self, install: Install) -> None:
        install("dist-a", reward("zz_b = m:B\nzz_a = m:A\nzz_c = m:C"))
        names = [entry.name for entry in entries("reward")]
        assert names == sorted(names)
        assert names[-3:] == ["zz_a", "zz_b", "zz_c"]

    def test_counts_a_distribution_once_that_stands_twice_on_the_path(
        self, install: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = install("dist-a", reward("zz_good = zz_good_module:Good"), zz_good_module=GOOD)
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        assert find("reward", "zz_good").distribution == "dist-a"

    @pytest.mark.parametrize("points", ["[vader.rewards]\nno equals sign\n", "no section = m:A\n", "[vader.rewards\n"])
    def test_survives_a_distribution_with_unreadable_entry_points(self, install: Install, points: str) -> None:
        install("dist-good", reward("zz_good = zz_good_module:Good"), zz_good_module=GOOD)
        install("dist-bad", points)
        assert find("reward", "zz_good").distribution == "dist-good"

    def test_survives_a_distribution_without_metadata(self, install: Install) -> None:
        install("dist-good", reward("zz_good = zz_good_module:Good"), zz_good_module=GOOD)
        folder = install("dist-bad", reward("zz_good = m:A\nzz_other = m:B"))
        next(folder.glob("*.dist-info/METADATA")).unlink()
        assert {"zz_good", "zz_other"} <= {entry.name for entry in entries("reward")}


class TestLookup:
    def test_loads_a_class_or_a_function(self, install: Install) -> None:
        install("dist-a", reward("zz_good = zz_m:Good\nzz_function = zz_m:function"), zz_m=GOOD)
        assert load("reward", "zz_good").__name__ == "Good"
        assert load("reward", "zz_function")(1, 2) == 1

    def test_of_an_unknown_name_says_the_nearest_what_is_installed_and_the_way_to_files(self, install: Install) -> None:
        install("dist-a", reward("zz_brightness = m:B"))
        with pytest.raises(UnknownComponent) as caught:
            find("reward", "zz_brigtness")
        message = str(caught.value)
        assert message.startswith("no reward is called 'zz_brigtness'. Did you mean 'zz_brightness'? Installed: ")
        assert "zz_brightness (dist-a)" in message
        assert message.endswith("Unpackaged code is named ./file.py:Name.")

    def test_of_a_name_like_nothing_makes_no_guess(self) -> None:
        with pytest.raises(UnknownComponent) as caught:
            find("sampler", "qqqqqqqqqq")
        assert "Did you mean" not in str(caught.value)

    def test_where_nothing_is_installed_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vader.plugins.discovery.distributions", lambda: ())
        with pytest.raises(UnknownComponent, match="Installed: none"):
            find("sampler", "zz")

    def test_of_a_name_that_exists_elsewhere_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vader.plugins.registry.NOT_INSTALLED", {"reward": {"zz_elsewhere": "vader-plugin-zz"}})
        with pytest.raises(UnknownComponent) as caught:
            find("reward", "zz_elsewhere")
        assert str(caught.value) == "reward 'zz_elsewhere' is not installed. Run `pip install vader-plugin-zz`."

    def test_of_a_name_near_one_that_exists_elsewhere_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vader.plugins.registry.NOT_INSTALLED", {"reward": {"zz_elsewhere": "vader-plugin-zz"}})
        with pytest.raises(UnknownComponent) as caught:
            find("reward", "zz_elsewere")
        assert "Did you mean 'zz_elsewhere' (`pip install vader-plugin-zz`)?" in str(caught.value)

    def test_refuses_both_of_two_claims_to_one_name_and_names_both(self, install: Install) -> None:
        install("dist-a", reward("zz_twice = zz_m:Good"), zz_m=GOOD)
        install("dist-b", reward("zz_twice = zz_n:Good"), zz_n=GOOD)
        with pytest.raises(AmbiguousComponent) as caught:
            load("reward", "zz_twice")
        assert str(caught.value) == (
            "reward 'zz_twice' is claimed by dist-a 1.2 (zz_m:Good) and dist-b 1.2 (zz_n:Good); both are refused. "
            "Uninstall one of them."
        )

    def test_of_another_name_is_not_disturbed_by_a_clash_or_a_broken_neighbour(self, install: Install) -> None:
        install("dist-a", reward("zz_twice = zz_m:Good\nzz_good = zz_m:Good"), zz_m=GOOD)
        install("dist-b", reward("zz_twice = zz_n:Good\nzz_bad = zz_n:Good"), zz_n="1 / 0")
        assert load("reward", "zz_good").__name__ == "Good"

    def test_errors_are_one_family(self) -> None:
        for error in (UnknownComponent, AmbiguousComponent, BrokenComponent):
            assert issubclass(error, RegistryError)


class TestBroken:
    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("raise SystemExit('bye')", "SystemExit: bye"),
            ("def (", "SyntaxError"),
            ("other = 1", "AttributeError: module 'zz_m' has no attribute 'Good'"),
            ("import zz_not_there", "ModuleNotFoundError: No module named 'zz_not_there'"),
        ],
    )
    def test_import_names_entry_distribution_and_reason(self, install: Install, source: str, says: str) -> None:
        install("dist-a", reward("zz_bad = zz_m:Good"), zz_m=source)
        with pytest.raises(BrokenComponent) as caught:
            load("reward", "zz_bad")
        message = str(caught.value)
        assert message.startswith("reward 'zz_bad' of dist-a 1.2 fails to load from 'zz_m:Good': ")
        assert says in message

    def test_import_for_want_of_a_module_says_which_to_install(self, install: Install) -> None:
        install("dist-a", reward("zz_bad = zz_m:Good"), zz_m="import zz_not_there")
        with pytest.raises(BrokenComponent, match=r"Install what is missing \(module 'zz_not_there'\)"):
            load("reward", "zz_bad")

    def test_import_otherwise_says_to_reinstall(self, install: Install) -> None:
        install("dist-a", reward("zz_bad = zz_m:Good"), zz_m="1 / 0")
        with pytest.raises(BrokenComponent, match="pip install --force-reinstall dist-a"):
            load("reward", "zz_bad")

    def test_import_does_not_swallow_a_keyboard_interrupt(self, install: Install) -> None:
        install("dist-a", reward("zz_bad = zz_m:Good"), zz_m="raise KeyboardInterrupt")
        with pytest.raises(KeyboardInterrupt):
            load("reward", "zz_bad")

    @pytest.mark.parametrize("value", ["zz m:Good", "zz_m:", ":Good"])
    def test_value_of_an_entry_point(self, install: Install, value: str) -> None:
        install("dist-a", reward(f"zz_bad = {value}"), zz_m=GOOD)
        with pytest.raises(BrokenComponent, match=r"reward 'zz_bad' of dist-a 1\.2"):
            load("reward", "zz_bad")

    def test_object_that_cannot_be_called(self, install: Install) -> None:
        install("dist-a", reward("zz_bad = zz_m:value"), zz_m=GOOD)
        with pytest.raises(BrokenComponent, match="is 3, expected a class or a function"):
            load("reward", "zz_bad")


class TestFiles:
    def test_load_by_path_and_name(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(GOOD)
        assert load("reward", f"{tmp_path}/mine.py:Good").__name__ == "Good"

    def test_load_from_the_working_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine.py").write_text(GOOD)
        monkeypatch.chdir(tmp_path)
        assert load("reward", "./mine.py:Good") is load("reward", "mine.py:Good")

    def test_are_run_once(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(GOOD)
        assert load("reward", f"{tmp_path}/mine.py:Good") is load("backbone", f"{tmp_path}/mine.py:Good")

    def test_of_one_name_in_two_folders_are_two(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "mine.py").write_text(f"class Good: folder = {folder!r}")
        assert [load("reward", f"{tmp_path}/{f}/mine.py:Good").folder for f in ("a", "b")] == ["a", "b"]

    def test_may_hold_options_in_their_own_annotations(self, tmp_path: Path) -> None:
        lines = ["from __future__ import annotations", "import vader", "class O(vader.Options):", " a: tuple[int, ...]"]
        (tmp_path / "mine.py").write_text("\n".join(lines))
        assert load("reward", f"{tmp_path}/mine.py:O")(a=[2, 3]).a == (2, 3)

    def test_that_are_missing_say_where_they_were_looked_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UnknownComponent) as caught:
            load("reward", "./none.py:Good")
        assert str(caught.value) == f"no file 'none.py' for reward 'Good', looked for from {tmp_path}."

    def test_without_the_attribute_say_what_they_define(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(GOOD + "_hidden = 1\n")
        with pytest.raises(UnknownComponent, match="has no 'Bad'; it defines Good, value, function"):
            load("reward", f"{tmp_path}/mine.py:Bad")

    @pytest.mark.parametrize("source", ["1 / 0", "raise SystemExit('bye')", "def ("])
    def test_that_fail_to_run_are_broken_and_can_be_mended(self, tmp_path: Path, source: str) -> None:
        path = tmp_path / "mine.py"
        path.write_text(source)
        with pytest.raises(BrokenComponent, match=r"reward file .*mine\.py' fails to load: "):
            load("reward", f"{path}:Good")
        path.write_text(GOOD + "# longer, so that no cached bytecode is taken for it\n")
        assert load("reward", f"{path}:Good").__name__ == "Good"

    def test_whose_attribute_cannot_be_called_are_broken(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(GOOD)
        with pytest.raises(BrokenComponent, match="is 3, expected a class or"):
            load("reward", f"{tmp_path}/mine.py:value")

    def test_without_a_name_are_looked_up_as_a_name_and_told_the_form(self) -> None:
        with pytest.raises(UnknownComponent, match=r"Unpackaged code is named \./file\.py:Name"):
            load("reward", "./mine.py")

    def test_fakes_load_as_unpackaged_code(self) -> None:
        path = Path(__file__).parents[1] / "fakes.py"
        fake = load("backbone", f"{path}:FakeBackbone")
        assert fake.Options().prediction == "epsilon"
