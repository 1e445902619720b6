"""Entry-point registries: discovery reads metadata only, a component is imported when it is used, and one broken
plugin never stops another.

A registry is an entry-point group; the value of an entry is ``module:attribute``. Unpackaged code is named by its file,
``./my_reward.py:Brightness``.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from vader.errors import AmbiguousComponent, BrokenComponent, UnknownComponent

GROUPS = {
    "backbone": "vader.backbones",
    "reward": "vader.rewards",
    "sampler": "vader.samplers",
    "prompts": "vader.prompts",
    "method": "vader.methods",
}
"""Kind of component -> entry-point group."""

NOT_INSTALLED = {
    "backbone": {
        "shapes": "vader-plugin-shapes",
        "wan": "vader-plugin-wan",
        "modelscope": "vader-plugin-modelscope",
        "videocrafter2": "vader-plugin-videocrafter",
        "opensora": "vader-plugin-opensora",
    },
    "reward": {
        "shapes_alignment": "vader-plugin-shapes",
        "aesthetic": "vader-plugin-rewards",
        "hps": "vader-plugin-rewards",
        "pickscore": "vader-plugin-rewards",
    },
    "prompts": {"shapes": "vader-plugin-shapes"},
}
"""Components that exist elsewhere: kind -> name -> the distribution that offers it."""


@dataclass(frozen=True)
class Entry:
    """One registered component, known from metadata alone."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the component.

        Raises:
            BrokenComponent: whatever its import raises, ``SystemExit`` included.
        """
        point = EntryPoint(self.name, self.value, GROUPS.get(self.kind, self.kind))
        try:
            component = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise BrokenComponent(
                f"{self.kind} {self.name!r} of {self.distribution} {self.version} fails to load from {self.value!r}: "
                f"{type(error).__name__}: {error}. {_fix(error, self.distribution)}"
            ) from error
        if not callable(component):
            raise BrokenComponent(
                f"{self.kind} {self.name!r} of {self.distribution} {self.version} is {component!r}, "
                f"expected a class or a function. Correct the entry point {self.value!r}."
            )
        return component


def _fix(error: BaseException, distribution: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"Install what is missing (module {error.name!r}), for example by 'pip install --upgrade {distribution}'."
        )
    return f"Reinstall it ('pip install --force-reinstall {distribution}') or uninstall it."


def entries(kind: str) -> list[Entry]:
    """Every registered component of a kind, sorted by name. Nothing is imported."""
    found = {
        Entry(
            kind,
            point.name,
            point.value,
            point.dist.name if point.dist else "unknown",
            point.dist.version if point.dist else "",
        )
        for point in entry_points(group=GROUPS[kind])
    }
    return sorted(found, key=lambda entry: (entry.name, entry.distribution))


def overview() -> list[dict[str, str]]:
    """A row for every component, installed or known to exist elsewhere, from metadata alone."""
    rows = []
    for kind in GROUPS:
        installed = entries(kind)
        names = [entry.name for entry in installed]
        for entry in installed:
            status = "installed" if names.count(entry.name) == 1 else "clash: refused, uninstall one of them"
            rows.append(_row(kind, entry.name, status, entry.distribution, entry.version))
        for name, distribution in NOT_INSTALLED.get(kind, {}).items():
            if name not in names:
                rows.append(_row(kind, name, f"not installed: pip install {distribution}", distribution, ""))
    return rows


def _row(kind: str, name: str, status: str, distribution: str, version: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "distribution": distribution, "version": version, "status": status}


def find(kind: str, name: str) -> Entry:
    """The one entry of that name.

    Raises:
        UnknownComponent: nothing installed has the name; says the nearest names and what to install.
        AmbiguousComponent: more than one distribution claims it.
    """
    installed = entries(kind)
    matches = [entry for entry in installed if entry.name == name]
    if len(matches) > 1:
        claims = " and ".join(f"{entry.distribution} {entry.version} ({entry.value})" for entry in matches)
        raise AmbiguousComponent(f"{kind} {name!r} is claimed by {claims}; both are refused. Uninstall one of them.")
    if not matches:
        raise UnknownComponent(_unknown(kind, name, installed))
    return matches[0]


def _unknown(kind: str, name: str, installed: Iterable[Entry]) -> str:
    names = {entry.name: entry.distribution for entry in installed}
    elsewhere = NOT_INSTALLED.get(kind, {})
    if name in elsewhere:
        return f"{kind} {name!r} is not installed. Run 'pip install {elsewhere[name]}'."
    near = difflib.get_close_matches(name, [*names, *elsewhere], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if near and near[0] not in names:
        hint = f" Did you mean {near[0]!r} (pip install {elsewhere[near[0]]})?"
    listed = ", ".join(f"{n} ({d})" for n, d in sorted(names.items())) or "none"
    return f"no {kind} is called {name!r}.{hint} Installed: {listed}. Unpackaged code is named ./file.py:Name."


def load(kind: str, name: str) -> Any:
    """The component called ``name``, or the attribute of a file for ``./file.py:Name``.

    Raises:
        RegistryError: it cannot be found or loaded.
    """
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _load_file(kind, Path(path), attribute)
    return find(kind, name).load()


def _load_file(kind: str, path: Path, attribute: str) -> Any:
    resolved = path.expanduser().resolve()
    if not resolved.is_file():
        raise UnknownComponent(f"no file {str(path)!r} for {kind} {attribute!r}, looked for from {Path.cwd()}.")
    module_name = f"vader_unpackaged_{abs(hash(str(resolved)))}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, resolved)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            del sys.modules[module_name]
            raise BrokenComponent(
                f"{kind} file {str(path)!r} fails to load: {type(error).__name__}: {error}."
            ) from error
    if not hasattr(module, attribute):
        names = ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
        raise UnknownComponent(f"{str(path)!r} has no {attribute!r}; it defines {names}.")
    return getattr(module, attribute)
