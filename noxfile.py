"""Chores of the project. ``nox -l`` lists them; plain ``nox`` runs the checks that CI runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
DISTRIBUTIONS = {
    "vader_core": "",
    "plugins/vader_diffusers": "",
    "plugins/vader_shapes": "",
    "plugins/vader_modelscope": "",
    "plugins/vader_videocrafter": "",
    "plugins/vader_opensora": "",
    "plugins/vader_rewards": "[all]",
}
"""Folder of each distribution -> the extras that its tests need."""
TOOLS = [
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6,<7",
    "ruff>=0.15,<1",
    "mypy>=1.18,<3",
    "import-linter>=2.5,<3",
    "build>=1.2,<2",
    "types-PyYAML",
]
HERE = {folder: f"--editable={ROOT / folder}" for folder in DISTRIBUTIONS}
REWARDS = HERE["plugins/vader_rewards"]
LAYERS = {
    "torch": ("", ["torch>=2.10,<3", "torchvision"]),
    "rewards": (
        "torch",
        [HERE["vader_core"], HERE["plugins/vader_diffusers"], HERE["plugins/vader_shapes"], REWARDS, "pytest"],
    ),
}
"""Environments that others stand on: name -> the one below it, and what is installed."""
ENGINES = {
    "ultralytics": ("rewards", [f"{REWARDS}[ultralytics]"]),
    "groundingdino": ("torch", ["groundingdino-py", "transformers==4.57.6", "pydantic", "pytest"]),
    "hpsv2": ("rewards", ["hpsv2", f"{REWARDS}[hps]"]),
}
"""Packages with environments of their own (docs/how-to/environments.md) -> the layer below, and what is installed."""
EXTRAS = ["none", "clip", "hps", "detection", "action", "imagenet", "ocr", "nsfw", "ultralytics"]
PACKAGING = ["build>=1.2,<2", "twine>=6,<7"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.30,<2", "ruff>=0.15,<1"]


def digest(more: str) -> str:
    """Of every pyproject.toml and something more: an environment with another one is out of date."""
    manifests = [ROOT / folder / "pyproject.toml" for folder in DISTRIBUTIONS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in manifests) + more.encode()).hexdigest()


def shared(session: nox.Session) -> Path:
    """The one environment of all sessions (torch is large): made once, renewed when a pyproject.toml changes."""
    home = ROOT / ".nox" / "shared"
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    wanted = digest(repr(TOOLS))
    stamp = home / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        if not scripts.is_dir():
            session.run(sys.executable, "-m", "venv", str(home), external=True)
        folders = [f"{ROOT / folder}{extras}" for folder, extras in DISTRIBUTIONS.items()]
        editable = [argument for folder in folders for argument in ("--editable", folder)]
        python = str(scripts / "python")
        session.run(python, "-m", "pip", "install", "--quiet", *TOOLS, *editable, external=True)
        stamp.write_text(wanted)
    session.env.update(OMP_WAIT_POLICY="passive", PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}")
    return scripts


def run(session: nox.Session, command: str, *arguments: str) -> None:
    """Run a program of the shared environment."""
    session.run(str(shared(session) / command), *arguments, external=True)


@nox.session
def quickstart(session: nox.Session) -> None:
    """Align the embedded model with reward gradients and write runs/quickstart/report.html."""
    shutil.rmtree(ROOT / "runs" / "quickstart", ignore_errors=True)
    run(session, "vader", "train", "examples/quickstart.yaml", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test."""
    if os.environ.get("CI") and not shutil.which("chromium") and shutil.which("apt-get"):
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", "chromium", external=True, silent=True)
    # Where PYTHONDONTWRITEBYTECODE is set, each of the many processes of the tests would compile vader anew.
    run(session, "python", "-m", "compileall", "-q", *(str(ROOT / folder / "src") for folder in DISTRIBUTIONS))
    run(session, "python", "-m", "pytest", *(session.posargs or ["-n", "auto", "--dist", "loadfile"]))


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill, fill, flip, start twice: 200 rounds of mishaps, 500 bad inputs (VADER_CHAOS_ROUNDS, VADER_CHAOS_SEED)."""
    session.env.setdefault("VADER_CHAOS_ROUNDS", os.environ.get("VADER_CHAOS_ROUNDS", "200"))
    run(session, "python", "-m", "pytest", "-q", "tests/chaos", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes each, which the tests of every change leave out."""
    run(session, "python", "-m", "pytest", "-q", "-m", "slow", *session.posargs)


@nox.session
def nodes(session: nox.Session) -> None:
    """Train on two machines, as two agents on the loopback interface, and kill five workers (VADER_NODE_KILLS)."""
    session.env.setdefault("VADER_NODE_KILLS", os.environ.get("VADER_NODE_KILLS", "5"))
    run(session, "python", "-m", "pytest", "-q", "-m", "slow", "tests/nodes", *session.posargs)


@nox.session
def recipes(session: nox.Session) -> None:
    """Estimate every recipe at its real size, and compare with the memory that it claims."""
    session.env["VADER_RECIPES"] = "all"
    run(session, "python", "-m", "pytest", "-q", "-m", "slow", "tests/recipes", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types: mypy, strict on the core."""
    run(session, "mypy")


@nox.session
def pyright(session: nox.Session) -> None:
    """Check with pyright, strictly, what a third party's plugin sees; it must also find what is wrong."""
    home = ROOT / ".nox" / "pyright"
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    if not scripts.is_dir():
        session.run(sys.executable, "-m", "venv", str(home), external=True)
    session.run(
        str(scripts / "python"), "-m", "pip", "install", "--quiet", "pyright[nodejs]>=1.1.400,<2", external=True
    )
    python = str(shared(session) / "python")
    command = [str(scripts / "pyright"), "--project", "tests/typed", "--pythonpath", python]
    session.run(*command, "tests/typed/every_protocol.py", external=True)
    found = session.run(*command, "tests/typed/wrong.py", external=True, silent=True, success_codes=[1])
    missed = [line for line in ROOT.joinpath("tests/typed/wrong.py").read_text().splitlines() if "# wrong" in line]
    if str(found).count(" - error: ") < len(missed):
        session.error(f"expected an error in each of {len(missed)} lines; found:\n{found}")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point one way only."""
    run(session, "lint-imports")


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels of every distribution into dist/."""
    for folder in DISTRIBUTIONS:
        run(session, "python", "-m", "build", "--wheel", "--outdir", "dist", folder)


@nox.session
def reference(session: nox.Session) -> None:
    """Write the tables in the documentation again: fields, options, settings of other trainers."""
    shared(session)
    for name in ("fields", "components"):
        with (ROOT / "docs" / "reference" / f"{name}.md").open("w", encoding="utf-8") as page:
            session.run("vader", "schema", "--table", name, external=True, stdout=page)
    run(session, "python", "-m", "vader.migration.page", "docs/coming-from")


@nox.session
def archives(session: nox.Session) -> None:
    """Build wheels and sdists into build/archives, and check their metadata, pages and licences with twine."""
    home, target = ROOT / ".nox" / "archives", ROOT / "build" / "archives"
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    if not scripts.is_dir():
        session.run(sys.executable, "-m", "venv", str(home), external=True)
    session.run(str(scripts / "python"), "-m", "pip", "install", "--quiet", *PACKAGING, external=True)
    shutil.rmtree(target, ignore_errors=True)
    for folder in DISTRIBUTIONS:
        session.run(str(scripts / "python"), "-m", "build", "--outdir", str(target), folder, external=True)
    built = sorted(target.iterdir())
    session.run(str(scripts / "twine"), "check", "--strict", *map(str, built), external=True)
    for archive in built:
        wanted = {"LICENSE", "PRETRAINING.md"} if archive.name.startswith("vader_plugin_shapes") else {"LICENSE"}
        if missing := wanted - {Path(name).name for name in members(archive)}:
            session.error(f"{archive} lacks {', '.join(sorted(missing))}")


def members(archive: Path) -> list[str]:
    """Names of the files in a wheel or an sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as sdist:
        return sdist.getnames()


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into build/site; a warning is an error."""
    home = ROOT / ".nox" / "docs"
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    if not scripts.is_dir():
        session.run(sys.executable, "-m", "venv", str(home), external=True)
    session.run(str(scripts / "python"), "-m", "pip", "install", "--quiet", *DOCS, external=True)
    session.run(str(scripts / "mkdocs"), "build", "--strict", external=True, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def scaffold(session: nox.Session) -> None:
    """Write a plugin of every kind, install each as written, and run its own tests."""
    folder = ROOT / "build" / "scaffold"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for kind in ("reward", "backbone", "sampler", "prompts", "listener"):
        name = f"zz-new-{kind}"
        run(session, "vader", "plugin", "new", kind, name, "--into", str(folder))
        package, site = folder / f"vader-plugin-{name}", folder / "site"
        run(session, "python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(package))
        session.env["PYTHONPATH"] = str(site)
        run(session, "python", "-m", "pytest", "-q", "-c", str(package / "pyproject.toml"), str(package / "tests"))


def layer(session: nox.Session, name: str, below: str, wanted: list[str]) -> str:
    """The Python of a fresh environment that sees the packages of the one below it.

    So torch is on disk once, and environments beside each other do not see each other's packages.
    """
    home = ROOT / ".nox" / "layers" / name
    shutil.rmtree(home, ignore_errors=True)
    session.run(sys.executable, "-m", "venv", *(["--without-pip"] if below else []), str(home), external=True)
    python = str(home / ("Scripts" if os.name == "nt" else "bin") / "python")
    if below:  # which has pip
        sites = [packages(session, path) for path in (python, kept(session, below))]
        Path(sites[0], "below.pth").write_text(f"import site; site.addsitedir({sites[1]!r})\n")
    session.run(python, "-m", "pip", "install", "--quiet", *wanted, external=True)
    session.env.update(OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", YOLO_OFFLINE="true")
    session.env["YOLO_CONFIG_DIR"] = session.create_tmp()
    return python


def packages(session: nox.Session, python: str) -> str:
    """The folder of an environment's packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = session.run(python, "-c", code, external=True, silent=True)
    return "" if found is None else str(found).strip()


def kept(session: nox.Session, name: str) -> str:
    """The Python of one of LAYERS: made once, renewed when a pyproject.toml changes."""
    below, wanted = LAYERS[name]
    home = ROOT / ".nox" / "layers" / name
    stamp = home / "installed"
    current = digest(repr(wanted)) if below else repr(wanted)
    if not stamp.is_file() or stamp.read_text() != current:
        layer(session, name, below, wanted)
        stamp.write_text(current)
    return str(home / ("Scripts" if os.name == "nt" else "bin") / "python")


def check(session: nox.Session, python: str, name: str, **variables: str) -> None:
    """Run the checks of one engine or of the extras in an environment."""
    path = f"plugins/vader_rewards/tests/engines/check_{name}.py"
    session.run(python, "-m", "pytest", "-q", path, *session.posargs, external=True, env=variables)


@nox.session
@nox.parametrize("engine", list(ENGINES), ids=list(ENGINES))
def engines(session: nox.Session, engine: str) -> None:
    """Check an engine that comes with a package of its own, in a fresh environment with that package."""
    below, wanted = ENGINES[engine]
    python = layer(session, engine, below, wanted)
    if engine == "groundingdino":  # vader cannot be installed beside this transformers, and need not be: isolate
        session.run(python, "-m", "pip", "install", "--quiet", "--no-deps", REWARDS, external=True)
        check(session, python, engine, PYTHONPATH=str(ROOT / "vader_core" / "src"))
        check(session, kept(session, "rewards"), "isolated", GROUNDINGDINO_PYTHON=python)
    else:
        check(session, python, engine)
    shutil.rmtree(Path(python).parents[1])


@nox.session
@nox.parametrize("extra", EXTRAS, ids=EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """Check an extra of vader-plugin-rewards alone, in a fresh environment without the others."""
    python = layer(session, f"extra-{extra}", "rewards", [REWARDS if extra == "none" else f"{REWARDS}[{extra}]"])
    session.run(python, "-m", "pip", "check", external=True)
    check(session, python, "extra", VADER_EXTRA=extra)
    shutil.rmtree(Path(python).parents[1])


@nox.session
def align(session: nox.Session) -> None:
    """Compare the methods on the shapes world, renew results and docs (over an hour; resumable)."""
    run(session, "python", "-m", "benchmarks.align", *(session.posargs or ["--docs", "docs"]))


@nox.session
def peers(session: nox.Session) -> None:
    """Measure our step beside two peers', renew results and docs (an hour; `-- --only steps`: 10 minutes)."""
    run(session, "python", "-m", "benchmarks.peers", *session.posargs)


@nox.session
def pretrain(session: nox.Session) -> None:
    """Train the embedded base model and its scorer again, from nothing (hours)."""
    run(session, "python", "-m", "vader_shapes.pretrain", *(session.posargs or ["all", "--out", "runs/pretrain"]))
