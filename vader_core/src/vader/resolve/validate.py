"""The one place where a spec is judged: every judgement in order, every mistake at once, and a plan if there is none.

Nothing is asked but class attributes, cheap constructors and, for an adapter that training starts from, its file.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from vader.errors import ComponentError, PathError, Problem, SpecError, WeightsError, cut
from vader.plugins.inventory import require_sound
from vader.plugins.registry import misfit
from vader.prompts import drawn
from vader.protocols import GivesNotices, HoldsPrompts, PromptSource, Video
from vader.resolve import adapter_source
from vader.resolve.components import ComponentResolver, ResolvedComponent
from vader.resolve.fit import clip_fits, expert_fits, method_fits, prompts_fit, rewards_fit, sampler_fits, sharding_fits
from vader.resolve.machine import machine_fits
from vader.resolve.plan import Plan
from vader.spec import RunSpec
from vader.spec.consistency import Finding, inconsistencies
from vader.spec.form import form_problems
from vader.spec.reading import Loc, SpecSource, read_source, shortened

_LOOKED_AT = 64
"""Prompts that are drawn to be judged, of a source that cannot show all it has."""

Spec = RunSpec | Mapping[str, Any] | str | Path


def check(spec: Spec, overrides: Sequence[str] = (), *, trust_code: bool = False) -> RunSpec:
    """Judge a spec without loading or downloading any weight.

    Args:
        spec: a :class:`RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.
        trust_code: run code that a spec in a file names outside its folder; see :mod:`vader.resolve.trust`.

    Returns:
        The resolved spec.

    Raises:
        SpecError: with every mistake found.
    """
    return resolve(spec, overrides, download=False, trust_code=trust_code).spec


def resolve(
    spec: Spec,
    overrides: Sequence[str] = (),
    rewards: Sequence[Any] = (),
    *,
    training: bool = True,
    download: bool = True,
    here: bool = False,
    scored: bool = True,
    trust_code: bool = False,
) -> Plan:
    """Judge a spec.

    Args:
        spec: see :func:`check`.
        overrides: see :func:`check`.
        rewards: objects, classes or functions to add to the spec's rewards, each with weight 1.
        training: demand a reward to train on.
        download: fetch the adapter that training starts from, if the hub has it and its cache has not; otherwise its
            shape stays as the spec says.
        here: it is to run on this machine, which must have what the spec asks for.
        scored: look at its rewards; else none of them is imported, and the plan has none.
        trust_code: see :func:`check`.

    Raises:
        SpecError: with every mistake found.
        BrokenComponent: in strict mode, an installed plugin is broken.
    """
    require_sound()
    source = read_source(spec, overrides)
    walk = _Walk(source, scored=scored, trust_code=trust_code)
    plan = walk.plan(rewards, training, download, here)
    if plan is None:
        raise SpecError(shortened(walk.problems), source.name)
    return plan


def _no_reward(component: Any) -> str | None:
    """Why an object passed from Python cannot be a reward; None when it can."""
    if isinstance(component, str):
        return f"found the text {cut(component)}; expected an object. A reward is named in the spec, under rewards."
    if not callable(component) and not hasattr(component, "score"):
        return f"found {cut(component)}; expected an object with score, a class or a function."
    if verdict := misfit("reward", component):
        return f"{cut(getattr(component, '__name__', type(component).__name__))} is refused: {verdict}"
    if isinstance(component, type):
        options = getattr(component, "Options", None)
        try:
            given = () if options is None else (options(),)
            inspect.signature(component).bind_partial(*given)
            needed = _needed(component, len(given))
        except (TypeError, ValueError) as error:
            return f"{component.__name__} cannot be constructed without options: {cut(str(error), plain=True)}"
        if needed:
            message = f"{component.__name__} needs {', '.join(needed)}; offered are {', '.join(_OFFERED)}."
            return f"{message} Pass an object, or a reward of the spec with options."
    return None


_OFFERED = ("runtime", "video", "backbone")
"""What the constructor of a reward may ask for."""


def _needed(component: type, given: int) -> list[str]:
    """Arguments of a constructor that nothing gives."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(component).parameters.values())[given:]
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in kinds and one.name not in _OFFERED
    ]


class _Walk:
    """The way of one spec through every judgement. ``problems`` are the mistakes found so far."""

    def __init__(self, source: SpecSource, *, scored: bool, trust_code: bool) -> None:
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self._source = source
        self._scored = scored
        self._parts = ComponentResolver(source, self.problems, trust_code=trust_code)

    def _say(self, findings: Iterable[Finding]) -> None:
        self.problems += [self._source.problem(path, message) for path, message in findings]

    def plan(self, extra: Sequence[Any], training: bool, download: bool, here: bool) -> Plan | None:
        """The judgements in order; None if anything is wrong."""
        spec = self._form()
        self._parts.collect(rewards=self._scored)
        if spec is None:
            return None
        self._say(inconsistencies(spec))
        if here:
            self._say(machine_fits(spec))
        method = self._method(spec)
        backbone = self._parts.found.get(("backbone",))
        sampler = self._sampler(spec, backbone)
        video = self._video(spec, backbone)
        rewards = self._rewards(("rewards",), spec.rewards, extra)
        held_out = self._rewards(("validation", "rewards"), spec.validation.rewards, ())
        if backbone is not None:
            self._say(sharding_fits(spec, backbone, method if training else None))
        if training:
            self._say(rewards_fit(spec, rewards, method, video))
        if training and method is not None and sampler is not None:
            self._say(method_fits(spec, method, sampler, backbone))
        spec, initial = self._adapter(spec, backbone, download)
        frozen = self._frozen(spec, backbone, download)
        prompts = self._prompts(("prompts",), backbone)
        validation = self._prompts(("validation", "prompts"), backbone) if spec.validation.prompts else prompts
        if self.problems:
            return None
        assert backbone is not None
        assert sampler is not None
        assert method is not None
        assert video is not None
        assert prompts is not None
        assert validation is not None
        told = tuple(dict.fromkeys(self.notices))
        return Plan(
            spec, video, backbone, sampler, method, prompts, validation, rewards, held_out, initial, frozen, told
        )

    def _form(self) -> RunSpec | None:
        try:
            return RunSpec.model_validate(self._source.data)
        except ValidationError as error:
            self.problems += form_problems(self._source, error, RunSpec)
            return None

    def _method(self, spec: RunSpec) -> ResolvedComponent | None:
        if "method" not in self._source.data:
            self._parts.load("method", ("method",), spec.method.name, {})
        return self._parts.found.get(("method",))

    def _sampler(self, spec: RunSpec, backbone: ResolvedComponent | None) -> ResolvedComponent | None:
        """The sampler, the backbone's own where the spec names none; its own has the options that it sets."""
        if backbone is not None:
            default, options = backbone.capability("default_sampler"), backbone.capability("default_sampler_options")
            unnamed = spec.sampler.name is None
            if unnamed or (spec.sampler.name == default and options and ("sampler",) in self._parts.found):
                self._parts.load("sampler", ("sampler",), default, {**options, **spec.sampler.options})
        sampler = self._parts.found.get(("sampler",))
        if sampler is not None and backbone is not None:
            self._say(sampler_fits(spec, sampler, backbone))
        return sampler

    def _video(self, spec: RunSpec, backbone: ResolvedComponent | None) -> Video | None:
        """The clip that the backbone makes of what the spec asks for."""
        if backbone is None:
            return None
        requested = {name: value for name, value in spec.video.model_dump().items() if value is not None}
        try:
            video: Video = backbone.component.resolve_video(backbone.options, requested)
        except ValueError as error:
            self._say([("video", str(error))])
            return None
        except Exception as error:  # a stranger's
            self._say([("backbone.name", f"backbone {backbone.name!r} raised {type(error).__name__}: {error}.")])
            return None
        self._say(clip_fits(spec, backbone, video))
        return video

    def _rewards(self, base: Loc, specs: Sequence[Any], extra: Sequence[Any]) -> dict[str, ResolvedComponent]:
        """Rewards by key: those of the spec, and those that were passed as objects."""
        found = self._parts.found
        parts = {spec.key: found[(*base, index)] for index, spec in enumerate(specs) if (*base, index) in found}
        if isinstance(extra, str) or not isinstance(extra, Sequence):
            self._say([("rewards", f"the argument rewards is {cut(extra)}; expected a list of rewards.")])
            return parts
        for index, component in enumerate(extra):
            name = getattr(component, "__name__", type(component).__name__)
            if wrong := _no_reward(component):
                self._say([("rewards", f"the argument rewards, place {index}: {wrong}")])
                continue
            if name in parts:
                self._say([("rewards", f"two rewards are called {name!r}. Give the one in the spec a label.")])
            options = getattr(component, "Options", None) if isinstance(component, type) else None
            parts[name] = ResolvedComponent("reward", name, component, options() if options is not None else None)
        return parts

    def _adapter(
        self, spec: RunSpec, backbone: ResolvedComponent | None, download: bool
    ) -> tuple[RunSpec, Path | None]:
        """The spec with what the file that its adapter starts from decides, wherever the spec is silent; the file."""
        adapter = spec.backbone.adapter
        if adapter.init is None or backbone is None:
            return spec, None
        try:
            path = adapter_source.locate(adapter.init, cached=not download)
            if path is None:
                return spec, None
            found = adapter_source.shape_of(backbone, path)
        except PathError:
            return spec, None  # what is wrong with it is said already
        except WeightsError as error:
            self._say([("backbone.adapter.init", str(error))])
            return spec, None
        given = {name: getattr(adapter, name) for name in adapter.model_fields_set}
        said = {name: value for name, value in given.items() if value is not None}
        for name, theirs in (("rank", found.rank), ("alpha", found.alpha or found.rank)):
            if said.get(name, theirs) != theirs:
                message = (
                    f"{adapter.init} has {name} {theirs:g}, found {said[name]:g}. Leave {name} out, or set it to that."
                )
                self._say([(f"backbone.adapter.{name}", message)])
        section = spec.backbone.model_copy(update={"adapter": found.model_copy(update=said)})
        return spec.model_copy(update={"backbone": section}), path

    def _frozen(
        self, spec: RunSpec, backbone: ResolvedComponent | None, download: bool
    ) -> tuple[tuple[Path, float, str | None], ...]:
        """The adapters that are fused, each readable."""
        found = []
        for index, adapter in enumerate(spec.backbone.frozen_adapters if backbone is not None else ()):
            assert backbone is not None
            self._say(expert_fits(backbone, adapter.expert, f"backbone.frozen_adapters.{index}.expert"))
            try:
                path = adapter_source.locate(adapter.init, cached=not download)
                if path is not None:
                    adapter_source.read_frozen(backbone, path)
                    found.append((path, adapter.scale, adapter.expert))
            except PathError:
                pass  # what is wrong with it is said already
            except WeightsError as error:
                self._say([(f"backbone.frozen_adapters.{index}.init", str(error))])
        return tuple(found)

    def _prompts(self, loc: Loc, backbone: ResolvedComponent | None) -> PromptSource | None:
        """A prompt source, opened: it says itself what it cannot read; the backbone can make clips of its prompts."""
        part = self._parts.found.get(loc)
        if part is None:
            return None
        try:
            source = cast(PromptSource, part.build())
        except ValueError as error:
            self.problems.append(self._source.problem((*loc, "options"), str(error)))
            return None
        except Exception as error:  # a stranger's
            said = f"prompt source {part.name!r} raised {type(error).__name__}: {error}."
            self.problems.append(self._source.problem((*loc, "name"), said))
            return None
        try:
            few = drawn(source, _LOOKED_AT, random.Random(0))
            held = source.held() if isinstance(source, HoldsPrompts) else few
            if isinstance(source, GivesNotices):
                self.notices += source.notices()
        except ComponentError as error:
            self.problems.append(self._source.problem((*loc, "name"), f"{part.name!r}: {error}"))
            return None
        if backbone is not None:
            self._say(prompts_fit(backbone, held, ".".join(map(str, (*loc, "options")))))
        return source
