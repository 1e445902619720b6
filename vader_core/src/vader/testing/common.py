"""Checks of every kind of component."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vader.errors import VaderError, WeightsError
from vader.plugins import registry
from vader.plugins.inventory import NAME
from vader.protocols import Backbone, LatentReward, Method, PromptSource, Reward, Sampler, capabilities_of, capability
from vader.spec import Options
from vader.testing.checks import KINDS, Failed, NotApplicable, check, expect
from vader.testing.subject import Subject

_PROTOCOLS: dict[str, type] = {
    "backbone": Backbone,
    "reward": Reward,
    "sampler": Sampler,
    "prompts": PromptSource,
    "method": Method,
}
_OFFERED = {
    "backbone": {"runtime", "video"},
    "reward": {"runtime", "video", "backbone"},
    "sampler": {"context"},
    "prompts": set[str](),
    "method": {"context"},
}
"""What a constructor may ask for besides its options, by parameter name."""


@check(*KINDS, first=True)
def is_found(subject: Subject) -> None:
    """It is found by its name, once, and its entry point loads."""
    if subject.registered:
        subject.entry.load()
    verdict = registry.misfit(subject.kind, subject.component)
    expect(verdict is None, str(verdict))


@check(*KINDS, live=False)
def name_is_valid(subject: Subject) -> None:
    """Its name is of small letters, digits and underscores."""
    if not subject.registered:
        raise NotApplicable("it is not known by a registered name.")
    name = subject.entry.name
    expect(bool(NAME.fullmatch(name)), f"it is called {name!r}; expected small letters, digits and underscores.")


@check(*KINDS, live=False)
def import_is_light(subject: Subject) -> None:
    """Importing it loads no torch: a spec is judged by importing what it names."""
    heavy = subject.report.heavy
    expect(not heavy, f"importing it loads {', '.join(heavy)}. Import them inside functions.")


@check(*KINDS, live=False)
def import_stays_offline(subject: Subject) -> None:
    """Importing it opens no socket."""
    events = subject.report.sockets
    expect(not events, f"importing it uses the network ({', '.join(sorted(set(events)))}). Do that when it is built.")


def _model(subject: Subject) -> type[Options]:
    model = getattr(subject.class_or_skip(), "Options", None)
    if model is None:
        raise NotApplicable("it has no Options.")
    return model  # type: ignore[no-any-return]


@check(*KINDS, live=False)
def options_are_options(subject: Subject) -> None:
    """Its Options is a vader.Options that keeps its configuration: frozen, extras forbidden."""
    model = _model(subject)
    expect(isinstance(model, type) and issubclass(model, Options), f"its Options is {model!r}; derive vader.Options.")
    expect(bool(model.model_config.get("frozen")), "its Options can be changed after it is made; keep frozen=True.")
    expect(
        model.model_config.get("extra") == "forbid",
        f"its Options has extra={model.model_config.get('extra')!r}, so a misspelt option would be ignored; "
        "keep extra='forbid'.",
    )


@check(*KINDS, needs=("options_are_options",))
def options_round_trip(subject: Subject) -> None:
    """Its options survive JSON, so that a run folder can hold them."""
    options = subject.options
    _model(subject)
    again = type(options).model_validate(json.loads(options.model_dump_json()))
    expect(again == options, f"options {options!r} come back from JSON as {again!r}; use JSON's types.")


@check(*KINDS, live=False, needs=("options_are_options",))
def options_are_documented(subject: Subject) -> None:
    """Every option says what it means."""
    silent = [name for name, info in _model(subject).model_fields.items() if not info.description]
    expect(not silent, f"no description for {', '.join(silent)}. Write Field(..., description='...').")


@check(*KINDS, live=False)
def signatures_match(subject: Subject) -> None:
    """Its constructor and methods take what the protocol gives."""
    component, kind = subject.component, subject.kind
    if isinstance(component, type):
        _constructor(component, kind)
    elif kind == "reward" and not hasattr(component, "score"):
        _accepts(component, 2, f"the function {subject.title}")
        return
    latents = kind == "reward" and capability(component, "input") == "latents"
    protocol = LatentReward if latents else _PROTOCOLS[kind]
    for name in registry.METHODS[kind]:
        wanted = list(inspect.signature(getattr(protocol, name)).parameters)
        bound = wanted[1:] if wanted[0] == "self" else wanted
        found = list(inspect.signature(getattr(component, name)).parameters)
        found = found[1:] if found[:1] == ["self"] else found
        expect(
            found[: len(bound)] == bound,
            f"{name}({', '.join(found)}) does not take ({', '.join(bound)}) in that order and by those names.",
        )


def _constructor(component: type, kind: str) -> None:
    parameters = dict(inspect.signature(component).parameters)
    if getattr(component, "Options", None) is not None:
        first = next(iter(parameters), None)
        expect(first == "options", f"its constructor's first parameter is {first!r}; expected 'options'.")
        parameters.pop("options")
    plain = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    odd = sorted(set(plain) - _OFFERED[kind])
    offered = ", ".join(sorted(_OFFERED[kind])) or "nothing"
    expect(not odd, f"its constructor asks for {', '.join(odd)}; besides options a {kind} may ask for {offered}.")


def _accepts(function: Any, count: int, what: str) -> None:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        raise Failed(f"{what} cannot be called with {count} arguments: {error}.") from error


@check(*KINDS, live=False)
def capabilities_are_typed(subject: Subject) -> None:
    """Its class attributes have the types that a spec is judged by."""
    for name, declared in capabilities_of(subject.kind).items():
        if not hasattr(subject.component, name):
            expect(not declared.required, f"it has no class attribute {name!r}; a {subject.kind} must say it.")
            continue
        value = getattr(subject.component, name)
        words = " or ".join(t.__name__ for t in declared.types)
        fits = type(value) in declared.types
        expect(fits, f"{name} is {value!r}, of type {type(value).__name__}; expected {words}.")
        known = ", ".join(map(repr, declared.choices))
        expect(not declared.choices or value in declared.choices, f"{name} is {value!r}; expected one of {known}.")
        if name == "frames":
            expect(value >= 1, f"frames is {value}; expected 1 or more.")


@check(*KINDS, live=False, needs=("signatures_match",))
def is_constructed(subject: Subject) -> None:
    """It can be constructed on the CPU, offline."""
    try:
        if subject.kind == "sampler":
            from vader.testing.sampler import built

            built(subject, 4)
        elif subject.kind == "method":
            from vader.testing.method_trial import trial

            trial(subject)
        else:
            subject.live()
    except VaderError as error:
        raise Failed(f"it cannot be constructed: {error} Give the kit options with which it can.") from error


@check(*KINDS, needs=("options_are_options",))
def missing_weights_are_said(subject: Subject) -> None:
    """Weights that are not there raise vader.WeightsError, which names them."""
    model = _model(subject)
    if "weights" not in model.model_fields:
        raise NotApplicable("it has no option called weights.")
    with TemporaryDirectory() as folder:
        missing = str(Path(folder) / "not-there.safetensors")
        options = model.model_validate({**subject.chosen_options, "weights": missing})
        try:
            subject.build(options=options)
        except WeightsError as error:
            expect("not-there" in str(error), f"the error does not name the missing weights: {error}")
        except Exception as error:
            raise Failed(
                f"missing weights raise {type(error).__name__}: {error}. Raise vader.WeightsError that names them."
            ) from error
        else:
            raise Failed("missing weights go unnoticed at construction. Raise vader.WeightsError that names them.")
