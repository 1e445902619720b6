"""The command that installs a distribution here, from where vader itself was installed: a checkout, git, or by name."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit
from urllib.request import url2pathname

CORE = "vader-core"
FOLDERS: Mapping[str, str] = MappingProxyType(
    {
        CORE: "vader_core",
        **{
            f"vader-plugin-{name}": f"plugins/vader_{name}"
            for name in ("diffusers", "modelscope", "opensora", "rewards", "shapes", "videocrafter")
        },
    }
)
"""Distribution of the project -> its folder in the repository."""

NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType({"vader-plugin-shapes": ("vader-plugin-diffusers",)})
"""Distribution -> others of the project that it requires, besides the core."""


@dataclass(frozen=True)
class Checkout:
    """The repository in a folder."""

    root: Path
    editable: bool


@dataclass(frozen=True)
class Git:
    """The repository at an address, such as ``git+https://host/owner/name``, and what was asked for of it."""

    address: str
    revision: str


def origin() -> Checkout | Git | None:
    """Where vader was installed from; None for an index or a folder of archives, where a name is enough.

    Source: PEP 610, ``direct_url.json``.
    """
    here = Path(__file__).resolve()
    if here.parts[-4:-1] == (FOLDERS[CORE], "src", "vader") and (here.parents[2] / "pyproject.toml").is_file():
        return Checkout(here.parents[3], editable=True)
    try:
        said = json.loads(distribution(CORE).read_text("direct_url.json") or "{}")
        return _origin(said)
    except (PackageNotFoundError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _origin(said: Mapping[str, Mapping[str, str] | str]) -> Checkout | Git | None:
    url, vcs, folder = said.get("url"), said.get("vcs_info"), said.get("dir_info")
    if isinstance(url, str) and isinstance(vcs, Mapping):
        return Git(f"{vcs['vcs']}+{url}", vcs.get("requested_revision") or vcs["commit_id"])
    if isinstance(url, str) and isinstance(folder, Mapping):
        path = Path(url2pathname(urlsplit(url).path))
        return Checkout(path.parent, editable=bool(folder.get("editable")))
    return None


def install_command(requirement: str, *options: str) -> str:
    """What to type to install something.

    Args:
        requirement: a distribution, with extras if wanted: ``vader-plugin-rewards[clip]``.
        options: of ``pip install``.
    """
    name, extras = _split(requirement)
    wanted = [*(f"{need}" for need in NEEDS.get(name, ()) if not _installed(need)), f"{name}{extras}"]
    source = origin() if name in FOLDERS else None
    arguments = [argument for one in wanted for argument in _arguments(one, source)]
    return shlex.join(["pip", "install", *options, *arguments]) if name in FOLDERS else _plain(requirement, options)


def _plain(requirement: str, options: tuple[str, ...]) -> str:
    return " ".join(["pip", "install", *options, shlex.quote(requirement) if "[" in requirement else requirement])


def _split(requirement: str) -> tuple[str, str]:
    """Name and extras, ``vader-core`` and ``[wandb]``."""
    name, bracket, rest = requirement.partition("[")
    return re.sub(r"[-_.]+", "-", name.strip()).lower(), bracket + rest


def _arguments(requirement: str, source: Checkout | Git | None) -> list[str]:
    name, extras = _split(requirement)
    if isinstance(source, Git):
        return [f"{name}{extras} @ {source.address}@{source.revision}#subdirectory={FOLDERS[name]}"]
    if isinstance(source, Checkout) and (source.root / FOLDERS[name] / "pyproject.toml").is_file():
        return [*(["--editable"] if source.editable else []), f"{_shown(source.root / FOLDERS[name])}{extras}"]
    return [f"{name}{extras}"]


def _shown(folder: Path) -> str:
    """A folder as it is typed from here."""
    here = Path.cwd()
    return f"./{folder.relative_to(here)}" if folder.is_relative_to(here) else str(folder)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
