"""Chores of the project. ``nox -l`` lists them; plain ``nox`` runs the checks that CI runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "types", "imports", "tests"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
DISTRIBUTIONS = {
    "vader_core": "",
    "plugins/vader_wan": "",
    "plugins/vader_shapes": "",
    "plugins/vader_modelscope": "",
    "plugins/vader_videocrafter": "",
    "plugins/vader_opensora": "",
    "plugins/vader_rewards": "[all]",
}
"""Folder of each distribution -> the extras that its tests need."""
TOOLS = [
    "pytest>=8,<10",
    "ruff>=0.15,<1",
    "mypy>=1.18,<3",
    "import-linter>=2.5,<3",
    "build>=1.2,<2",
    "types-PyYAML",
]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.30,<2", "ruff>=0.15,<1"]


def shared(session: nox.Session) -> Path:
    """The one environment of all sessions (torch is large): made once, renewed when a pyproject.toml changes."""
    home = ROOT / ".nox" / "shared"
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    manifests = [ROOT / folder / "pyproject.toml" for folder in DISTRIBUTIONS]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in manifests) + repr(TOOLS).encode()).hexdigest()
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
    run(session, "python", "-m", "pytest", *session.posargs)


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
def imports(session: nox.Session) -> None:
    """Check that imports point one way only."""
    run(session, "lint-imports")


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels of every distribution into dist/."""
    for folder in DISTRIBUTIONS:
        run(session, "python", "-m", "build", "--wheel", "--outdir", "dist", folder)


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
    for kind in ("reward", "backbone", "sampler", "prompts"):
        name = f"zz-new-{kind}"
        run(session, "vader", "plugin", "new", kind, name, "--into", str(folder))
        package, site = folder / f"vader-plugin-{name}", folder / "site"
        run(session, "python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(package))
        session.env["PYTHONPATH"] = str(site)
        run(session, "python", "-m", "pytest", "-q", "-c", str(package / "pyproject.toml"), str(package / "tests"))


@nox.session
def pretrain(session: nox.Session) -> None:
    """Train the embedded base model and its scorer again, from nothing (hours)."""
    run(session, "python", "-m", "vader_shapes.pretrain", *(session.posargs or ["all", "--out", "runs/pretrain"]))
