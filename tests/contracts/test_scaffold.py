"""What the scaffold writes is installed as it is, passes its own tests, and is used in a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.integration.harness import FAKES, environment

from vader.errors import RunFolderError, SpecError
from vader.installing import Checkout, Git
from vader.scaffold import KINDS, write

SPEC = {
    "backbone": {"name": "zz_new_backbone", "adapter": {"rank": 2}},
    "sampler": {"name": "zz_new_sampler", "steps": 2},
    "prompts": "zz_new_prompts",
    "method": {"name": "zz_new_method", "options": {"enough": 0.8}},
    "rewards": [{"name": "zz_new_reward", "options": {"level": 0.7}}],
    "video": {"frames": 5, "height": 32, "width": 32},
    "train": {"steps": 1, "device": "cpu"},
    "validation": {"clips": 0},
    "output": "run",
}
"""A run made of nothing but what the scaffold wrote."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    into = tmp_path_factory.mktemp("scaffold")
    return {kind: write(kind, f"zz-new-{kind}", into) for kind in KINDS}


@pytest.fixture(scope="module")
def site(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the packages, installed from wheels."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    options = ["--no-build-isolation", "--no-index", "--no-compile", "--target", str(target)]
    done = subprocess.run([*pip, *options, *map(str, folders.values())], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(site: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = environment(VADER_CONFIG_HOME=str(cwd))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_its_tests_pass_as_written(site: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    tests = [str(folder / "tests") for folder in folders.values()]
    done = run(site, "-m", "pytest", "-q", "-W", "error", "--import-mode=importlib", *tests, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " failed" not in done.stdout


@pytest.mark.slow
def test_it_is_found_used_and_missed(site: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SPEC))
    written = run(site, "-m", "vader_zz_new_backbone.tiny", "weights", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    setting = "--set=backbone.options.weights=weights"
    listed = run(site, "-m", "vader", "plugins", cwd=tmp_path)
    line = next(line for line in listed.stdout.splitlines() if "zz_new_reward" in line)
    assert "vader-plugin-zz-new-reward" in line
    assert "differentiable" in line
    trained = run(site, "-m", "vader", "train", "run.yaml", setting, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "run" / "zz_new_listener.csv").read_text().startswith("step,reward\n1,")
    gone = run(Path(FAKES).parent, "-m", "vader", "train", "run.yaml", setting, "--resume", cwd=tmp_path)
    assert gone.returncode == 2
    for kind in ("backbone", "sampler", "prompts", "reward"):
        assert f"no {'prompts' if kind == 'prompts' else kind} is called 'zz_new_{kind}'" in gone.stderr
        assert f"run `pip install vader-plugin-zz-new-{kind}==0.1.0`" in gone.stderr


def test_the_command_writes_a_package_and_says_what_comes_next(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "vader", "plugin", "new", "reward", "my-glow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "vader-plugin-my-glow"
    assert "wrote vader-plugin-my-glow" in done.stdout
    assert "vader check my_glow" in done.stdout
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        ".github/workflows/ci.yml",
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "src/vader_my_glow/__init__.py",
        "src/vader_my_glow/py.typed",
        "src/vader_my_glow/reward.py",
        "tests/test_my_glow.py",
    ]
    assert "class MyGlow:" in (folder / "src/vader_my_glow/reward.py").read_text()
    assert not any("@@" in path.read_text() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_is_in_good_style(kind: str, tmp_path: Path) -> None:
    folder = write(kind, f"zz-new-{kind}", tmp_path)
    for arguments in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            Git("git+https://example.org/o/vader", "v1"),
            '"vader-core @ git+https://example.org/o/vader@v1#subdirectory=',
        ),
        (Checkout(Path("/src"), editable=True), '"vader-core @ git+ADDRESS#subdirectory=vader_core" --editable'),
        (None, 'whl/cpu --editable ".[test]"'),
    ],
)
def test_its_checks_elsewhere_install_the_core_from_where_it_came(
    source: Git | Checkout | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vader.scaffold.origin", lambda: source)
    text = (write("reward", "mine", tmp_path) / ".github" / "workflows" / "ci.yml").read_text()
    assert wanted in text
    assert ("put the address" in text) == isinstance(source, Checkout)
    steps = yaml.safe_load(text)["jobs"]["tests"]["steps"]
    assert [step["run"].split()[0] for step in steps if "run" in step] == ["pip", "pytest", "vader"]


class TestRefusals:
    @pytest.mark.parametrize("name", ["My-Reward", "1st", "a--b", "class", "a b", ""])
    def test_of_a_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SpecError, match=r"NAME: expected small letters and digits .* found "):
            write("reward", name, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_of_a_name_that_is_taken(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="sampler 'ddim' belongs to vader-core"):
            write("sampler", "ddim", tmp_path)
        with pytest.raises(SpecError, match="reward 'aesthetic' belongs to vader-plugin-rewards"):
            write("reward", "aesthetic", tmp_path)

    def test_of_a_kind(self, tmp_path: Path) -> None:
        with pytest.raises(
            SpecError, match=r"KIND: expected reward, backbone, sampler, prompts, method, listener; found 'rewrad'\."
        ):
            write("rewrad", "mine", tmp_path)

    def test_of_a_folder_that_is_there(self, tmp_path: Path) -> None:
        write("prompts", "mine", tmp_path)
        with pytest.raises(RunFolderError, match="exists"):
            write("prompts", "mine", tmp_path)

    @pytest.mark.skipif(os.name != "posix", reason="device files")
    def test_of_a_folder_that_cannot_be_written(self) -> None:
        with pytest.raises(RunFolderError, match="cannot write"):
            write("prompts", "mine", Path("/dev/null"))
