"""``vader plugin new``: an installable package with one component, its tests, a README and a CI file."""

from __future__ import annotations

import keyword
import re
import shutil
from pathlib import Path

import jinja2

from vader import __version__
from vader.errors import Problem, RunFolderError, SpecError
from vader.installing import CORE, FOLDERS, Checkout, Git, origin
from vader.plugins import registry

TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("reward", "backbone", "sampler", "prompts", "method", "listener")
GROUPS = {**registry.GROUPS, registry.LISTENER: "vader.plugins"}
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_PLACES = {"gitignore": ".gitignore", "ci.yml": ".github/workflows/ci.yml", "init.py": "src/{package}/__init__.py"}
"""Templates that do not lie where their name says; of the rest, code goes to the package and tests to ``tests``."""


def write(kind: str, name: str, into: Path) -> Path:
    """Write a plugin's package.

    Args:
        kind: one of :data:`KINDS`.
        name: small letters and digits, words joined by - or _; ``my-reward`` becomes the component ``my_reward``, the
            class ``MyReward``, the package ``vader_my_reward`` and the distribution ``vader-plugin-my-reward``.
        into: the folder that the package's folder is made in.

    Returns:
        The package's folder.

    Raises:
        SpecError: no such kind, or no possible name.
        RunFolderError: the folder exists or cannot be written.
    """
    _judge(kind, name)
    words = re.split("[-_]", name)
    component = "_".join(words)
    values = {
        "component": component,
        "Class": "".join(word.capitalize() for word in words),
        "distribution": f"vader-plugin-{'-'.join(words)}",
        "package": f"vader_{component}",
        "kind": kind,
        "group": GROUPS[kind],
        "core": _core_range(),
        "core_source": _core_source(),
    }
    templates = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    folder = into / values["distribution"]
    if folder.exists():
        raise RunFolderError(f"{str(folder)!r} exists. Choose another name or folder, or delete it.")
    partial = into / f".{folder.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for source in [*sorted((TEMPLATES / "common").iterdir()), *sorted((TEMPLATES / kind).iterdir())]:
            target = partial / _place(source.name.removesuffix(".tmpl"), values)
            target.parent.mkdir(parents=True, exist_ok=True)
            text = templates.from_string(source.read_text(encoding="utf-8")).render(values)
            target.write_text(text, encoding="utf-8")
        (partial / "src" / values["package"] / "py.typed").touch()
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunFolderError(f"cannot write {str(folder)!r}: {error.strerror}. Choose a writable folder.") from error
    return folder


def _judge(kind: str, name: str) -> None:
    """Refuse a kind or name that would not work.

    Raises:
        SpecError: with what is wrong.
    """
    problems = []
    if kind not in KINDS:
        problems.append(Problem("KIND", f"expected {', '.join(KINDS)}; found {kind!r}."))
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        rule = "small letters and digits that begin with a letter, words joined by - or _, such as my-reward"
        problems.append(Problem("NAME", f"expected {rule}; found {name!r}."))
    elif kind in registry.GROUPS:
        component = name.replace("-", "_")
        taken = {entry.name: entry.distribution for entry in registry.claims(kind)}
        owner = taken.get(component) or registry.NOT_INSTALLED.get(kind, {}).get(component)
        if owner:
            problems.append(Problem("NAME", f"{kind} {component!r} belongs to {owner}. Choose another name."))
    if problems:
        raise SpecError(problems, "the command")


def _core_range() -> str:
    """The versions of vader-core that a plugin written now works with."""
    major, minor = map(int, __version__.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}" if major == 0 else f">={major}.{minor},<{major + 1}"


def _core_source() -> str:
    """What a machine elsewhere is to install vader-core from; empty where its name is enough."""
    match origin():
        case Git(address, revision):
            return f"vader-core @ {address}@{revision}#subdirectory={FOLDERS[CORE]}"
        case Checkout():
            return f"vader-core @ git+ADDRESS#subdirectory={FOLDERS[CORE]}"
    return ""


def _place(name: str, values: dict[str, str]) -> str:
    if name in _PLACES:
        return _PLACES[name].format(**values)
    if name == "test.py":
        return f"tests/test_{values['component']}.py"
    return f"src/{values['package']}/{name}" if name.endswith(".py") else name
