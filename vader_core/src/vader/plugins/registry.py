"""Entry-point registries: discovery reads metadata only, a component is imported when it is used, and one broken
plugin never stops another.

A registry is an entry-point group; the value of an entry is ``module:attribute``. Unpackaged code is named by its file,
``./my_reward.py:Brightness``. A name that belongs to vader-core stays its own: a plugin that claims it is refused.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from vader.errors import AmbiguousComponent, BrokenComponent, PathError, UnknownComponent, cut
from vader.installing import install_command
from vader.paths import user_path
from vader.plugins import selection
from vader.plugins.catalog import NOT_INSTALLED as NOT_INSTALLED
from vader.plugins.discovery import CORE, Diagnosis, Found, normalized, plugin_distributions
from vader.plugins.listeners import listener_fault
from vader.protocols import API_VERSION, capability

GROUPS = {
    "backbone": "vader.backbones",
    "reward": "vader.rewards",
    "sampler": "vader.samplers",
    "prompts": "vader.prompts",
    "method": "vader.methods",
}
"""Kind of component -> entry-point group."""

LISTENER = "listener"
"""What is said to be the kind of what listens to run events."""

METHODS = {
    "backbone": ("resolve_video", "encode", "predict", "decode", "latent_shape"),
    "reward": ("score",),
    "sampler": ("step",),
    "prompts": ("draw",),
    "method": ("losses", "state_dict", "load_state_dict"),
}
"""Kind of component -> methods that its class must have. A plain function is a reward too."""


@dataclass(frozen=True)
class Entry:
    """One registered component, known from metadata alone.

    Args:
        refusal: why it takes no part, from metadata alone; None when it does.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    refusal: Diagnosis | None = None

    @property
    def built_in(self) -> bool:
        """Whether it belongs to vader-core."""
        return normalized(self.distribution) == CORE

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}".rstrip()

    def load(self) -> Any:
        """Import the component.

        Raises:
            BrokenComponent: whatever its import raises, ``SystemExit`` included; or it is no component.
        """
        point = EntryPoint(self.name, self.value, GROUPS.get(self.kind, self.kind))
        try:
            with redirect_stdout(sys.stderr):  # what a plugin prints is no part of what a command gives
                component = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            cause = f"{self} fails to load from {self.value!r}: {_said(error)}."
            raise BrokenComponent(cause, fix(error, self.distribution)) from error
        if not callable(component) and self.kind != LISTENER:
            cause = f"{self} is {component!r}, expected a class or a function."
            raise BrokenComponent(cause, f"Correct the entry point {self.value!r}.")
        return component


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")


def fix(error: BaseException, distribution: str) -> str:
    """What to do about an error at import."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"Install what is missing (module {error.name!r}), for example by "
            f"`{install_command(distribution, '--upgrade')}`."
        )
    return f"Reinstall it (`{install_command(distribution, '--force-reinstall')}`) or uninstall it."


def misfit(kind: str, component: Any) -> Diagnosis | None:
    """Why an object cannot be a component of a kind, from its attributes; None when it can.

    A listener that is a class is constructed.
    """
    if kind == LISTENER:
        fault = listener_fault(component)
        return Diagnosis("broken", fault, "Its author must correct that.") if fault is not None else None
    version = capability(component, "api_version")
    if version != API_VERSION:
        return wrong_api(version)
    if kind == "reward" and callable(component) and not isinstance(component, type) and not hasattr(component, "score"):
        return _uncallable("it", component, _arguments(component, "score"))
    missing = [name for name in METHODS.get(kind, ()) if not callable(getattr(component, name, None))]
    if missing:
        what = f"class {component.__name__}" if isinstance(component, type) else type(component).__name__
        cause = f"{what} has no {' and no '.join(missing)}, which a {kind} must have."
        return Diagnosis("broken", cause, "Its author must correct that.")
    for name in METHODS.get(kind, ()):
        wanted = _arguments(component, name)
        if wanted and (found := _uncallable(name, getattr(component, name), _with_self(component, name, wanted))):
            return found
    return None


_ARGUMENTS = {"score": ("frames", "prompts"), "draw": ("n", "rng")}
"""Method -> what it is called with, where a component may be anyone's first."""


def _arguments(component: Any, method: str) -> tuple[str, ...]:
    if method == "score" and capability(component, "input") == "latents":
        return "latents", "timestep", "conditioning"
    return _ARGUMENTS.get(method, ())


def _with_self(component: Any, name: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """A function of a class that is not yet constructed takes the object too."""
    plain = isinstance(component, type) and inspect.isfunction(inspect.getattr_static(component, name, None))
    return ("self", *wanted) if plain else wanted


def _uncallable(name: str, function: Any, wanted: tuple[str, ...]) -> Diagnosis | None:
    """Why a function cannot be called with these arguments, by place; None when it can, or that is not known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*wanted)
    except TypeError:
        called = ", ".join(wanted)
        cause = f"{name} is written {cut(f'{name}{signature}', plain=True)}; it is called with ({called})."
        return Diagnosis("broken", cause, "Its author must correct that.")
    return None


def wrong_api(version: Any) -> Diagnosis:
    """What is said of a component that was written for other protocols."""
    newer = isinstance(version, int) and version > API_VERSION
    return Diagnosis(
        "incompatible",
        f"it is written for version {version} of vader's protocols; this vader has version {API_VERSION}.",
        f"Upgrade {'vader-core' if newer else 'the plugin'}, or install versions that fit.",
    )


def claims(kind: str, installed: Iterable[Found] | None = None) -> list[Entry]:
    """Every claim to a name of a kind, those that are refused included, sorted by name. Nothing is imported."""
    return sorted(
        {entry for found in installed or plugin_distributions() for entry in _entries(kind, found)},
        key=lambda entry: (entry.name, entry.distribution, entry.value),
    )


def _entries(kind: str, found: Found) -> Iterable[Entry]:
    for point in found.points:
        if point.group == GROUPS[kind]:
            name, value = str(point.name), str(point.value or "")
            why = selection.refusal(kind, name, found.name) or incompatible(found)
            yield Entry(kind, name, value, found.name, found.version, why)


def incompatible(found: Found) -> Diagnosis | None:
    """Why a distribution does not fit this vader-core by its own requirements; None when it does."""
    lines = [line for line in found.requires if re.match(r"vader[-_.]core(?![\w.-])", line, re.IGNORECASE)]
    if not lines or normalized(found.name) == CORE:
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    from vader import __version__

    for line in lines:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            return Diagnosis("broken", f"its requirement {line!r} cannot be read.", "Its author must correct that.")
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if applies and not wanted.specifier.contains(__version__, prereleases=True):
            cause = f"it needs vader-core {wanted.specifier}, and {__version__} is installed."
            commands = f"`{install_command(CORE, '--upgrade')}` and `{install_command(found.name, '--upgrade')}`"
            return Diagnosis("incompatible", cause, f"Run {commands}.")
    return None


def entries(kind: str) -> list[Entry]:
    """The components of a kind that take part, sorted by name. A contested name has several."""
    taking_part = [entry for entry in claims(kind) if entry.refusal is None]
    own = {entry.name for entry in taking_part if entry.built_in}
    return [entry for entry in taking_part if entry.built_in or entry.name not in own]


def find(kind: str, name: str) -> Entry:
    """The one entry of that name.

    Raises:
        UnknownComponent: nothing installed has the name, or what has it takes no part; says the fix.
        AmbiguousComponent: more than one distribution claims it.
    """
    every = claims(kind)
    claimed = [entry for entry in every if entry.name == name]
    matches = [entry for entry in claimed if entry.refusal is None]
    own = [entry for entry in matches if entry.built_in]
    for shadow in matches if own else ():
        if not shadow.built_in:
            warnings.warn(shadowed(shadow), stacklevel=3)
    matches = own or matches
    if len(matches) > 1:
        who = " and ".join(f"{entry.distribution} {entry.version} ({entry.value})" for entry in matches)
        raise AmbiguousComponent(f"{kind} {name!r} is claimed by {who}; both are refused. Uninstall one of them.")
    if not matches and claimed:
        raise UnknownComponent(" ".join(f"{entry} takes no part: {entry.refusal}" for entry in claimed))
    if not matches:
        raise UnknownComponent(_unknown(kind, name, [entry for entry in every if entry.refusal is None]))
    return matches[0]


def shadowed(entry: Entry) -> str:
    """What is said of a plugin's component that has a built-in's name."""
    return f"{entry} is not used: that name belongs to {CORE}. Its author must rename it."


def _unknown(kind: str, name: str, installed: Iterable[Entry]) -> str:
    names = {entry.name: entry.distribution for entry in installed}
    elsewhere = NOT_INSTALLED.get(kind, {})
    if name in elsewhere:
        return f"{kind} {name!r} is not installed. Run `{install_command(elsewhere[name])}`."
    near = difflib.get_close_matches(name, [*names, *elsewhere], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if near and near[0] not in names:
        hint = f" Did you mean {near[0]!r} (`{install_command(elsewhere[near[0]])}`)?"
    listed = ", ".join(f"{n} ({d})" for n, d in sorted(names.items())) or "none"
    return f"no {kind} is called {name!r}.{hint} Installed: {listed}. Unpackaged code is named ./file.py:Name."


def unpackaged(name: str) -> tuple[Path, str] | None:
    """File and attribute of ``./file.py:Name``; None for a registered name."""
    path, colon, attribute = name.rpartition(":")
    return (Path(path), attribute) if colon and path.endswith(".py") else None


def load(kind: str, name: str) -> Any:
    """The component called ``name``, or the attribute of a file for ``./file.py:Name``.

    Raises:
        RegistryError: it cannot be found or loaded.
    """
    code = unpackaged(name)
    return _load_file(kind, *code) if code else find(kind, name).load()


def _load_file(kind: str, path: Path, attribute: str) -> Any:
    try:
        resolved = user_path(path).resolve()
    except PathError as error:
        raise UnknownComponent(f"{kind} {cut(attribute)}: {error}") from error
    if not resolved.is_file():
        raise UnknownComponent(f"no file {str(path)!r} for {kind} {attribute!r}, looked for from {Path.cwd()}.")
    module_name = f"vader_unpackaged_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, resolved)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            with redirect_stdout(sys.stderr):
                spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            del sys.modules[module_name]
            raise BrokenComponent(f"{kind} file {str(path)!r} fails to load: {_said(error)}.") from error
    if not hasattr(module, attribute):
        names = ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
        raise UnknownComponent(f"{str(path)!r} has no {attribute!r}; it defines {names}.")
    component = getattr(module, attribute)
    if not callable(component):
        raise BrokenComponent(f"{attribute!r} of {str(path)!r} is {component!r}, expected a class or a function.")
    return component
