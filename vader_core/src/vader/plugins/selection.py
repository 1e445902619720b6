"""Which of the installed plugins take part: the user's choice, by a file and by environment variables.

=====================  ==========================================================================================
``VADER_PLUGINS``      comma-separated distributions; only these and vader-core take part. Empty: vader-core alone
``VADER_STRICT``       ``1``: any broken plugin is a failure of every command that judges a spec
``VADER_CONFIG_HOME``  folder of ``disabled.json``; default ``~/.config/vader`` (or under ``XDG_CONFIG_HOME``)
=====================  ==========================================================================================
"""

from __future__ import annotations

import json
import os
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

from vader.errors import RegistryError
from vader.paths import user_path
from vader.plugins.discovery import CORE, Diagnosis, Found, normalized, plugin_distributions
from vader.storage import write_text

ONLY, STRICT, HOME = "VADER_PLUGINS", "VADER_STRICT", "VADER_CONFIG_HOME"


def strict() -> bool:
    """Whether any broken plugin is a failure."""
    return os.environ.get(STRICT, "") not in ("", "0")


def disabled_file() -> Path:
    """Where disabled names are kept."""
    if home := os.environ.get(HOME):
        return user_path(home) / "disabled.json"
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return user_path(base) / "vader" / "disabled.json"


def disabled() -> frozenset[str]:
    """Disabled names: of a distribution, or ``kind:name`` of a component. A file that cannot be read disables none."""
    path = disabled_file()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(str(name) for name in names["disabled"])
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{path} cannot be read and disables nothing: {error}. Delete it.", stacklevel=2)
        return frozenset()


def set_disabled(names: frozenset[str]) -> Path:
    """Keep the names for every later command of this user.

    Raises:
        RegistryError: the file cannot be written.
    """
    path = disabled_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"disabled": sorted(names)}, indent=2) + "\n")
    except OSError as error:
        raise RegistryError(
            f"cannot write {str(path)!r}: {error.strerror}. Set {HOME} to a folder that can be written."
        ) from error
    return path


def refusal(kind: str, name: str, distribution: str) -> Diagnosis | None:
    """Why a component takes no part by the user's choice, with the way back; None when it does."""
    key = normalized(distribution)
    if key == CORE:
        return None
    off = disabled()
    for entry in (key, f"{kind}:{name}"):
        if entry in off:
            return Diagnosis("disabled", "it is disabled.", f"Run 'vader plugins --enable {entry}'.")
    only = os.environ.get(ONLY)
    if only is not None and key not in {normalized(part.strip()) for part in only.split(",")}:
        return Diagnosis("disabled", f"it is left out by {ONLY}={only!r}.", f"Add {distribution} to it, or unset it.")
    return None


def listener_points() -> list[tuple[Found, EntryPoint]]:
    """The listeners that take part, of group ``vader.plugins``, of every distribution that can be read."""
    return [
        (found, point)
        for found in plugin_distributions()
        for point in found.points
        if point.group == "vader.plugins" and refusal("listener", str(point.name), found.name) is None
    ]
