"""Checks: small named functions that pass, fail with a message, or do not apply."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from vader.testing.subject import Subject

KINDS = ("reward", "backbone", "sampler", "prompts", "method")
"""Kinds of component that the kit knows."""


class Failed(AssertionError):
    """A component breaks its contract. Says what was seen, what was expected and what to do."""


class NotApplicable(Exception):
    """A check means nothing for this component; says why."""


@dataclass(frozen=True)
class Check:
    """One promise of a contract.

    Args:
        name: of the check, in the words of the promise.
        promise: one line about it.
        run: raises :class:`Failed` or :class:`NotApplicable`; any other exception is a failure too.
        needs: checks that must hold first.
    """

    name: str
    promise: str
    run: Callable[[Subject], None]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Args:
        status: ``passed``, ``failed``, ``expected`` (failed, as declared), ``surprise`` (passed, though its failure was
            declared) or ``not applicable``.
        message: why, empty for a pass.
    """

    name: str
    promise: str
    status: Literal["passed", "failed", "expected", "surprise", "not applicable"]
    message: str = ""

    @property
    def broken(self) -> bool:
        """Whether the contract is broken."""
        return self.status in ("failed", "surprise")


_MODULES = {kind: ("common", kind) for kind in KINDS} | {"backbone": ("common", "backbone", "backbone_adapters")}
"""Kind -> modules of its checks."""

CHECKS: dict[str, dict[str, Check]] = {kind: {} for kind in KINDS}
"""Kind -> name -> check, in the order in which they are run."""

Function = TypeVar("Function", bound="Callable[[Subject], None]")


def check(
    *kinds: str, needs: tuple[str, ...] = (), live: bool = True, first: bool = False
) -> Callable[[Function], Function]:
    """Register a check under its function's name; the docstring's first line is its promise.

    Args:
        kinds: of component.
        needs: checks that must hold first.
        live: whether it needs a constructed component, and so ``is_constructed``.
        first: whether it needs nothing at all.
    """

    def register(function: Function) -> Function:
        promise = (function.__doc__ or "").strip().splitlines()[0]
        all_needs = () if first else ("is_constructed" if live else "is_found", *needs)
        for kind in kinds:
            CHECKS[kind][function.__name__] = Check(function.__name__, promise, function, all_needs)
        return function

    return register


def expect(holds: bool, message: str) -> None:
    """Fail with ``message`` unless ``holds``.

    Raises:
        Failed: it does not hold.
    """
    if not holds:
        raise Failed(message)


def checks_of(kind: str) -> dict[str, Check]:
    """The checks of a kind, by name, those of every kind first."""
    for module in _MODULES[kind]:
        importlib.import_module(f"vader.testing.{module}")  # registers its checks
    return CHECKS[kind]
