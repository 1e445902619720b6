"""Recipes: whole specs that plugins bring, each with what it needs and what it aligns.

A plugin registers a folder of its package under the entry-point group ``vader.recipes``, as ``package:folder``. Each
``NAME.yaml`` in it is two YAML documents: what the recipe is (:class:`About`), and the spec. Nothing of a plugin is
imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vader.errors import AmbiguousComponent, BrokenComponent, UnknownComponent
from vader.plugins import selection
from vader.plugins.discovery import Found, plugin_distributions
from vader.plugins.registry import incompatible

GROUP = "vader.recipes"
_BORDER = "\n---\n"


class About(BaseModel):
    """What a recipe is: the first document of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="What is trained, and how.")
    vram: float = Field(gt=0, description="Device memory in GB (10^9 bytes), by vader estimate.")
    models: dict[str, str] = Field(min_length=1, description="Every network that is loaded, with its licence.")
    aligns: str = Field(description="What the rewards ask for.")


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Args:
        name: its file's name without the ending.
        distribution: who brings it.
        about: what it is.
        spec: the run spec, as YAML text.
    """

    name: str
    distribution: str
    about: About
    spec: str

    def text(self) -> str:
        """A spec to start from: the YAML text, with what the recipe is in comments above."""
        about = self.about
        models = [f"#   {model}: {licence}" for model, licence in about.models.items()]
        memory = f"# Memory by vader estimate: {about.vram} GB"
        head = [f"# {about.title}", f"# Aligns: {about.aligns}", memory, "# Models:"]
        return "\n".join([*head, *models, self.spec])


def recipes(installed: Iterable[Found] | None = None) -> list[Recipe]:
    """Every recipe of the plugins that take part, sorted by name.

    Raises:
        BrokenComponent: a folder or file is not what it must be.
        AmbiguousComponent: two distributions bring one name.
    """
    made: dict[str, Recipe] = {}
    for found in installed or plugin_distributions():
        for point in found.points:
            if point.group != GROUP or found.damage or incompatible(found):
                continue
            if selection.refusal("recipe", str(point.name), found.name):
                continue
            for path in _files(found.name, str(point.value)):
                recipe = _read(path, found.name)
                if other := made.get(recipe.name):
                    raise AmbiguousComponent(
                        f"recipe {recipe.name!r} is brought by {other.distribution} and by {found.name}. "
                        f"Run 'vader plugins --disable' with one of them."
                    )
                made[recipe.name] = recipe
    return [made[name] for name in sorted(made)]


def recipe(name: str, installed: Iterable[Found] | None = None) -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownComponent: no plugin brings it; says the nearest name, and which there are.
    """
    known = {found.name: found for found in recipes(installed)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownComponent(f"no recipe is called {name!r}.{hint} Installed: {', '.join(known) or 'none'}.")


def _files(distribution: str, value: str) -> list[Path]:
    package, _, folder = value.partition(":")
    found = find_spec(package) if package.isidentifier() else None
    places = list(found.submodule_search_locations or ()) if found else []
    paths = sorted(path for place in places for path in (Path(place) / folder).glob("*.yaml")) if folder else []
    if not paths:
        cause = f"{distribution} names {value!r} in {GROUP}, which holds no recipe."
        raise BrokenComponent(cause, "Expected package:folder, with NAME.yaml in the folder, as package data.")
    return paths


def _read(path: Path, distribution: str) -> Recipe:
    head, border, spec = path.read_text(encoding="utf-8").partition(_BORDER)
    if not border:
        cause = f"recipe {path.stem!r} of {distribution} is one YAML document."
        raise BrokenComponent(cause, "Expected what it is, a line ---, and the spec.")
    try:
        return Recipe(path.stem, distribution, About.model_validate(yaml.safe_load(head)), spec)
    except (yaml.YAMLError, ValidationError) as error:
        cause = f"recipe {path.stem!r} of {distribution} does not say what it is: {error}"
        raise BrokenComponent(cause, "Expected title, vram, models and aligns.") from error
