"""From a prompt to one of a network's class names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from vader import Prompt, SpecError
from vader.sdk import Problem


def words(text: str) -> str:
    """Lower case, words parted by single spaces, nothing else."""
    return " ".join(re.findall(r"[\w']+", text.lower().replace("_", " ")))


class ClassNames:
    """Finds the class that a prompt is about.

    In this order: the one fixed in the options; the options' map from prompts; the prompt's metadata ``class``; the
    prompt itself, if it is a class name; the longest class name that occurs in the prompt.

    Args:
        reward: the reward's name, for errors.
        names: of each class; several names of one class are parted by commas.
        fixed: name or number of the one class wanted, whatever the prompt.
        mapping: prompt -> class name or number.

    Raises:
        vader.SpecError: if ``fixed`` or a value of ``mapping`` is no class.
    """

    def __init__(
        self,
        reward: str,
        names: Sequence[str],
        fixed: str | int | None = None,
        mapping: Mapping[str, str | int] | None = None,
    ) -> None:
        self._reward, self._count = reward, len(names)
        self._known: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            for one in dict.fromkeys([words(name), *(words(part) for part in name.split(","))]):
                self._known.setdefault(one, []).append(index)
        self._fixed = None if fixed is None else self._find(fixed)
        self._map = {words(text): self._find(name) for text, name in (mapping or {}).items()}

    def index(self, prompt: Prompt) -> int:
        """The class of a prompt.

        Raises:
            vader.SpecError: if it names none, or one that several classes share; says the nearest.
        """
        if self._fixed is not None:
            return self._fixed
        text = words(prompt.text)
        if text in self._map:
            return self._map[text]
        if "class" in prompt.metadata:
            return self._find(prompt.metadata["class"])
        held = [name for name in self._known if f" {name} " in f" {text} "]
        return self._find(max(held, key=len) if held else prompt.text, "prompt")

    def _find(self, name: str | int, what: str = "class") -> int:
        if isinstance(name, int):
            if 0 <= name < self._count:
                return name
            raise self._refuse(f"there is no class {name}; expected 0 to {self._count - 1}.")
        found = self._known.get(words(name))
        if found is None:
            near = difflib.get_close_matches(words(name), self._known, n=3, cutoff=0.3)
            hint = f" Nearest: {', '.join(map(repr, near))}." if near else ""
            raise self._refuse(
                f"{what} {name!r} names none of its {self._count} classes.{hint} "
                "Name one in the prompt, or in the options."
            )
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            raise self._refuse(f"{name!r} is the name of classes {numbers}. Give the number of the one you mean.")
        return found[0]

    def _refuse(self, message: str) -> SpecError:
        return SpecError([Problem("rewards", f"{self._reward}: {message}")])
