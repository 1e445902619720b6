"""Recipes of the plugins: each passes a dry run, says what vader estimate counts, and is in its wheel.

VADER_RECIPES=all estimates each at its real size, as ``nox -s recipes`` does; without, slow tests estimate the one that
takes least memory.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vader
from vader.plugins.discovery import Found
from vader.plugins.recipes import GROUP, recipe, recipes

ROOT = Path(__file__).parents[2]
SHIPPED = recipes()
ESTIMATED = SHIPPED if os.environ.get("VADER_RECIPES") == "all" else [min(SHIPPED, key=lambda found: found.about.vram)]


def name_of(found):
    return found.name


def written(found, folder):
    path = folder / "run.yaml"
    path.write_text(found.text(), encoding="utf-8")
    return path


@pytest.mark.parametrize("shipped", SHIPPED, ids=name_of)
def test_a_recipe_is_a_spec_that_fits_its_name(shipped, tmp_path):
    spec = vader.check(written(shipped, tmp_path))
    assert spec.output.endswith(shipped.name)
    size = shipped.name.rpartition("-")[2]
    assert size.endswith("gb")
    assert shipped.about.vram <= float(size.removesuffix("gb"))
    loaded = " ".join(shipped.about.models)
    assert spec.backbone.options.get("weights", "") in loaded, "the licence of what it trains is said"


@pytest.mark.slow
@pytest.mark.parametrize("shipped", ESTIMATED, ids=name_of)
def test_a_recipe_takes_the_memory_it_claims(shipped, tmp_path):
    found = vader.estimate(written(shipped, tmp_path), device="cuda")
    assert not found.not_counted
    assert round(found.total / 1e9, 1) == shipped.about.vram


def test_recipes_are_in_the_wheel(tmp_path):
    folder, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(ROOT / "plugins" / "vader_diffusers", folder, ignore=shutil.ignore_patterns("*.egg-info", "tests"))
    code = "from setuptools import setup; setup()"
    command = [sys.executable, "-c", code, "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    packed = {path.stem for path in (built / "vader_diffusers" / "recipes").glob("*.yaml")}
    assert packed == {found.name for found in SHIPPED if found.distribution == "vader-plugin-diffusers"}


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """Installs a distribution whose one recipe is a text."""
    from importlib.metadata import EntryPoint

    monkeypatch.syspath_prepend(tmp_path)

    def install(package, text, folder="recipes"):
        (tmp_path / package / "recipes").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / package / "recipes" / "mine.yaml").write_text(text)
        return Found(package, "1", (EntryPoint(package, f"{package}:{folder}", GROUP),))

    return install


GOOD = "title: T\nvram: 2.5\nmodels: {a: MIT}\naligns: colour\n---\nbackbone: shapes\n"


def test_a_plugin_brings_recipes_and_is_not_imported(brought):
    found = recipe("mine", [brought("zz_one", GOOD)])
    assert (found.distribution, found.about.vram, found.spec) == ("zz_one", 2.5, "backbone: shapes\n")
    assert yaml.safe_load(found.text()) == {"backbone": "shapes"}
    assert all(said in found.text() for said in ("# T", "colour", "2.5 GB", "a: MIT"))


def test_an_unknown_recipe_is_named_with_the_nearest(brought):
    with pytest.raises(vader.RegistryError, match=r"'mime'\. Did you mean 'mine'\? Installed: mine\."):
        recipe("mime", [brought("zz_two", GOOD)])


def test_a_name_of_two_distributions_is_refused(brought):
    with pytest.raises(vader.RegistryError, match=r"'mine' is brought by zz_three and by zz_four"):
        recipes([brought("zz_three", GOOD), brought("zz_four", GOOD)])


@pytest.mark.parametrize(
    ("text", "folder", "said"),
    [
        ("backbone: shapes\n", "recipes", "is one YAML document"),
        (GOOD.replace("vram: 2.5", "vram: much"), "recipes", "(?s)does not say what it is.*vram"),
        (GOOD.replace("title: T\n", ""), "recipes", "(?s)does not say what it is.*title"),
        (GOOD, "elsewhere", "holds no recipe"),
    ],
)
def test_what_is_no_recipe_is_refused(brought, text, folder, said):
    with pytest.raises(vader.RegistryError, match=said):
        recipes([brought("zz_bad", text, folder)])


def test_the_command_lists_and_writes_them(tmp_path):
    listed = subprocess.run(["vader", "init", "--recipes"], capture_output=True, text=True, check=True).stdout
    assert [line.partition(":")[0] for line in listed.splitlines()] == [found.name for found in SHIPPED]
    path = tmp_path / "run.yaml"
    subprocess.run(["vader", "init", str(path), "--recipe", SHIPPED[0].name], capture_output=True, check=True)
    assert path.read_text(encoding="utf-8") == SHIPPED[0].text()
