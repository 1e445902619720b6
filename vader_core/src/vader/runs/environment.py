"""What a run was made with: versions and system."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vader.plugins.discovery import plugin_distributions

_PACKAGES = (
    "vader-core",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "numpy",
    "safetensors",
    "pydantic",
)
_version = cache(version)
"""What is imported stays as it is, and so does its version: METADATA is parsed once."""


def environment() -> dict[str, Any]:
    """Versions of packages and of Python, the system and its processors."""
    return {
        "versions": versions(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on, plugins included."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = _version(name)
        except PackageNotFoundError:
            continue
    for plugin in plugin_distributions():
        found[plugin.name] = plugin.version
    return found
