"""The components that a spec names: each looked up, its options validated, nothing constructed yet."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from vader.errors import ComponentError, IsolationError, PathError, Problem, RegistryError, cut
from vader.paths import user_path
from vader.plugins import registry
from vader.plugins.isolation.component import Isolated
from vader.protocols import ability, capability
from vader.resolve import code_record
from vader.resolve.trust import Trust
from vader.spec import IsolateSpec, Options
from vader.spec.form import form_problems, unknown_field
from vader.spec.reading import Loc, SpecSource

A = TypeVar("A")


@dataclass(frozen=True)
class ResolvedComponent:
    """A component chosen by a spec: its class (or function, or finished object) and its validated options."""

    kind: str
    name: str
    component: Any
    options: Any = None

    def build(self, **offered: Any) -> Any:
        """Construct it, with the options and those of the offered runtime objects that its constructor names."""
        if not isinstance(self.component, type):
            return self.component
        parameters = inspect.signature(self.component).parameters
        arguments = {name: value for name, value in offered.items() if name in parameters}
        try:
            return self._construct(arguments)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            message = f"{self.kind} {self.name!r} raised {type(error).__name__}: {error}, while it was constructed"
            raise ComponentError(message) from error

    def _construct(self, arguments: Mapping[str, Any]) -> Any:
        return self.component(self.options, **arguments) if self.options is not None else self.component(**arguments)

    def capability(self, name: str) -> Any:
        """See :func:`vader.protocols.capability`."""
        return capability(self.component, name)

    def ability(self, wanted: type[A]) -> A | None:
        """See :func:`vader.protocols.ability`."""
        return ability(self.kind, self.component, wanted)


def _whose(kind: str, name: str) -> str:
    """A component with the distribution that it is of."""
    try:
        return f"{kind} {name!r}" if registry.unpackaged(name) else str(registry.find(kind, name))
    except RegistryError:
        return f"{kind} {name!r}"


class ComponentResolver:
    """Finds every component that raw spec data names, and validates its options; notes what is wrong."""

    def __init__(self, source: SpecSource, problems: list[Problem], *, trust_code: bool = True) -> None:
        self._source, self._problems = source, problems
        self._trust = Trust(source, given=trust_code)
        self.found: dict[Loc, ResolvedComponent] = {}

    def collect(self, *, rewards: bool = True) -> None:
        """Add every part that the source names, with its rewards or without."""
        data = self._source.data
        for kind in ("backbone", "sampler", "prompts", "method"):
            self._add(kind, (kind,), data.get(kind))
        validation = data.get("validation")
        validation = validation if isinstance(validation, dict) else {}
        self._add("prompts", ("validation", "prompts"), validation.get("prompts"))
        for base, owner in ((("rewards",), data), (("validation", "rewards"), validation)):
            named = owner.get("rewards") if rewards else None
            for index, node in enumerate(named if isinstance(named, list | tuple) else ()):
                self._add("reward", (*base, index), node)

    def _add(self, kind: str, loc: Loc, node: Any) -> None:
        name = node if isinstance(node, str) else node.get("name") if isinstance(node, dict) else None
        options = node.get("options") if isinstance(node, dict) else None
        isolate = node.get("isolate") if isinstance(node, dict) and kind == "reward" else None
        refused = self._trust.objection(loc, name, isolate) if isinstance(name, str) and name else None
        if refused is not None:
            self._problems.append(self._source.problem(*refused))
        elif isinstance(name, str) and name and isolate is not None:
            self._isolate(loc, name, isolate, options if isinstance(options, dict) else {})
        elif isinstance(name, str) and name:
            self.load(kind, loc, name, options if isinstance(options, dict) else {})

    def _isolate(self, loc: Loc, name: str, isolate: Any, options: Mapping[str, Any]) -> None:
        """Ask another interpreter about a reward; what is wrong with ``isolate`` itself, the run spec says."""
        try:
            valid = IsolateSpec.model_validate(isolate)
        except ValidationError:
            return
        try:
            reward = Isolated(valid.model_dump(), name, name, options)
        except IsolationError as error:
            self._problems.append(self._source.problem((*loc, "isolate"), str(error)))
            return
        for place, message in reward.problems:
            self._problems.append(self._source.problem((*loc, "options", *place), message))
        self.found[loc] = ResolvedComponent("reward", name, reward.component())

    def load(self, kind: str, loc: Loc, name: str, options: Mapping[str, Any]) -> None:
        """Look a component up and validate its options."""
        try:
            component = registry.load(kind, name)
        except RegistryError as error:
            self._problems.append(self._source.problem((*loc, "name"), str(error) + self._remembered(kind, name)))
            return
        try:
            self._judge(kind, loc, name, component, options)
        except Exception as error:  # a validator, a property or a metaclass of a stranger's
            said = f"{_whose(kind, name)} cannot be judged, it raised {type(error).__name__}: {error}."
            fix = "Its author must correct that."
            self._problems.append(self._source.problem((*loc, "name"), f"{cut(said, plain=True)} {fix}"))

    def _judge(self, kind: str, loc: Loc, name: str, component: Any, options: Mapping[str, Any]) -> None:
        """Validate the options of a component that is sound."""
        if verdict := registry.misfit(kind, component):
            self._problems.append(self._source.problem((*loc, "name"), f"{kind} {name!r} is refused: {verdict}"))
            return
        model = getattr(component, "Options", None)
        where = (*loc, "options")
        if model is None:
            self._problems += [self._source.problem((*where, key), unknown_field(key, [])) for key in options]
            self.found[loc] = ResolvedComponent(kind, name, component)
            return
        if not (isinstance(model, type) and issubclass(model, Options)):
            message = f"{kind} {name!r} has an Options that is not a vader.Options; its author must correct that."
            self._problems.append(self._source.problem((*loc, "name"), message))
            return
        try:
            self.found[loc] = ResolvedComponent(kind, name, component, model.model_validate(dict(options)))
        except ValidationError as error:
            self._problems += form_problems(self._source, error, model, where)

    def _remembered(self, kind: str, name: str) -> str:
        """What the run folder that the spec lies in, or writes to, knows of a component."""
        folders = [Path(self._source.name).parent] if self._source.name else []
        output = self._source.data.get("output")
        with contextlib.suppress(PathError):
            folders += [user_path(output)] if isinstance(output, str) else []
        return next(filter(None, (code_record.remembered(folder, kind, name) for folder in folders)), "")
