"""Optional packages: what is missing is said together with the extra that brings it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vader import RegistryError
from vader.sdk import install_command


def require(reward: str, extra: str, *modules: str) -> None:
    """Check that a reward's packages are installed. Nothing is imported.

    Args:
        reward: the reward's name, for the message.
        extra: the extra of this distribution that installs them.
        modules: their import names.

    Raises:
        vader.RegistryError: if one is missing; names the extra to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise RegistryError(
            f"reward {reward!r} needs {', '.join(missing)}, not installed here. "
            f"Run: {install_command(f'vader-plugin-rewards[{extra}]')}"
        )


def packaged(module: str, *parts: str) -> Path:
    """A data file inside an installed package, found without importing the package.

    Args:
        module: import name of the package.
        parts: path of the file within it; whether it is there is for the reader of the file to say.
    """
    spec = find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)
