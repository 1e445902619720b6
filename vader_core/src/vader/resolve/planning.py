"""Judging a spec with nothing but class attributes and cheap constructors; every mistake is said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from vader.errors import Problem, SpecError, WeightsError
from vader.plugins.inventory import require_sound
from vader.protocols import PromptSource, ValidatesSpec, Video
from vader.resolve import adapter_source
from vader.resolve.components import ComponentResolver, ResolvedComponent
from vader.spec import RunSpec
from vader.spec.reading import Loc, SpecSource, form_problems, impossible, read_source

Spec = RunSpec | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Plan:
    """A spec that has been judged: resolved, its components known, its prompt sources open, no weight loaded.

    ``initial_adapter`` is where the adapter starts from; None for zero, and for one of the hub that was not downloaded.
    """

    spec: RunSpec
    video: Video
    backbone: ResolvedComponent
    sampler: ResolvedComponent
    method: ResolvedComponent
    prompts: PromptSource
    validation_prompts: PromptSource
    rewards: Mapping[str, ResolvedComponent]
    held_out: Mapping[str, ResolvedComponent]
    initial_adapter: Path | None


def check(spec: Spec, overrides: Sequence[str] = ()) -> RunSpec:
    """Judge a spec without loading or downloading any weight.

    Args:
        spec: a :class:`RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.

    Returns:
        The resolved spec.

    Raises:
        SpecError: with every mistake found.
    """
    return plan(spec, overrides, download=False).spec


def plan(
    spec: Spec,
    overrides: Sequence[str] = (),
    rewards: Sequence[Any] = (),
    *,
    training: bool = True,
    download: bool = True,
) -> Plan:
    """Judge a spec.

    Args:
        spec: see :func:`check`.
        overrides: see :func:`check`.
        rewards: objects, classes or functions to add to the spec's rewards, each with weight 1.
        training: demand a reward to train on.
        download: fetch the adapter that training starts from, if the hub has it and its cache has not; otherwise its
            shape stays as the spec says.

    Raises:
        SpecError: with every mistake found.
        BrokenComponent: in strict mode, an installed plugin is broken.
    """
    require_sound()
    source = read_source(spec, overrides)
    problems: list[Problem] = []
    valid: RunSpec | None = None
    try:
        valid = RunSpec.model_validate(source.data)
    except ValidationError as error:
        problems += form_problems(source, error, RunSpec)
    parts = ComponentResolver(source, problems)
    parts.collect()
    made = None
    if valid is not None:
        problems += impossible(valid, source)
        made = _Judge(valid, source, parts.found, problems).plan(rewards, training, download)
    if problems or made is None:
        raise SpecError(problems, source.name)
    return made


class _Judge:
    """Judges a spec whose form is right by what its components say of themselves."""

    def __init__(
        self, spec: RunSpec, source: SpecSource, parts: dict[Loc, ResolvedComponent], problems: list[Problem]
    ) -> None:
        self._spec, self._source, self._parts, self._problems = spec, source, parts, problems

    def _say(self, path: Loc | str, message: str) -> None:
        self._problems.append(self._source.problem(path, message))

    def plan(self, extra: Sequence[Any], training: bool, download: bool) -> Plan | None:
        spec, parts = self._spec, self._parts
        method = parts.get(("method",))
        if method is None and "method" not in self._source.data:
            method = self._default("method", ("method",), spec.method.name)
        backbone = parts.get(("backbone",))
        sampler = self._sampler(backbone)
        video = self._video(backbone)
        rewards = self._rewards(("rewards",), extra)
        held_out = self._rewards(("validation", "rewards"), ())
        if training:
            self._judge_rewards(method, rewards, video)
            self._judge_method(method, sampler)
        spec, initial = self._resolve_adapter(backbone, download)
        prompts = self._prompts(("prompts",))
        validation = self._prompts(("validation", "prompts")) if spec.validation.prompts else prompts
        if self._problems:
            return None
        assert backbone is not None
        assert sampler is not None
        assert method is not None
        assert video is not None
        assert prompts is not None
        assert validation is not None
        return Plan(spec, video, backbone, sampler, method, prompts, validation, rewards, held_out, initial)

    def _default(self, kind: str, loc: Loc, name: str) -> ResolvedComponent | None:
        """The part for a name that the spec leaves to a default."""
        finder = ComponentResolver(self._source, self._problems)
        finder.load(kind, loc, name, {})
        return finder.found.get(loc)

    def _sampler(self, backbone: ResolvedComponent | None) -> ResolvedComponent | None:
        spec = self._spec.sampler
        part = self._parts.get(("sampler",))
        if backbone is None:
            return part
        if spec.name is None:
            finder = ComponentResolver(self._source, self._problems)
            finder.load("sampler", ("sampler",), backbone.capability("default_sampler"), spec.options)
            part = finder.found.get(("sampler",))
        if part is None:
            return None
        able, made = part.capability("predictions"), backbone.capability("predictions")
        if not set(able) & set(made):
            message = (
                f"{part.name!r} integrates {', '.join(able)}, "
                f"but backbone {backbone.name!r} predicts {', '.join(made)}. "
                f"Use {backbone.capability('default_sampler')!r}, or leave sampler.name out."
            )
            self._say("sampler.name", message)
        if spec.eta > 0 and not part.capability("stochastic"):
            self._say("sampler.eta", f"{part.name!r} adds no noise; expected eta 0, found {spec.eta}.")
        return part

    def _video(self, backbone: ResolvedComponent | None) -> Video | None:
        if backbone is None:
            return None
        spec = self._spec
        requested = {name: value for name, value in spec.video.model_dump().items() if value is not None}
        try:
            video: Video = backbone.component.resolve_video(backbone.options, requested)
        except ValueError as error:
            self._say("video", str(error))
            return None
        if spec.frames.index is not None and spec.frames.index >= video.frames:
            expected = f"Expected 0 to {video.frames - 1} (the clip has {video.frames} frames)."
            self._say("frames.index", f"{spec.frames.index} is past the last frame. {expected}")
        if spec.train.gradient_checkpointing and not backbone.capability("gradient_checkpointing"):
            self._say("train.gradient_checkpointing", f"backbone {backbone.name!r} has none; set it to false.")
        return video

    def _rewards(self, base: Loc, extra: Sequence[Any]) -> dict[str, ResolvedComponent]:
        specs = self._spec.rewards if base == ("rewards",) else self._spec.validation.rewards
        parts = {
            spec.key: self._parts[(*base, index)] for index, spec in enumerate(specs) if (*base, index) in self._parts
        }
        for component in extra:
            name = getattr(component, "__name__", type(component).__name__)
            if name in parts:
                self._say("rewards", f"two rewards are called {name!r}. Give the one in the spec a label.")
            options = getattr(component, "Options", None) if isinstance(component, type) else None
            parts[name] = ResolvedComponent("reward", name, component, options() if options is not None else None)
        return parts

    def _judge_method(self, method: ResolvedComponent | None, sampler: ResolvedComponent | None) -> None:
        able = method.ability(ValidatesSpec) if method is not None else None
        if method is None or sampler is None or able is None:
            return
        for path, message in able.validate(method.options, self._spec, sampler.component):
            self._say(path, message)

    def _judge_rewards(
        self, method: ResolvedComponent | None, rewards: Mapping[str, ResolvedComponent], video: Video | None
    ) -> None:
        spec = self._spec
        if not spec.rewards and not rewards:
            self._say("rewards", "no reward to train on. Add at least one, such as rewards: [{name: ...}].")
        if spec.rewards and len(rewards) == len(spec.rewards) and all(reward.weight == 0 for reward in spec.rewards):
            self._say("rewards", "every weight is 0, so nothing would be learnt. Give one a weight above 0.")
        for index, reward in enumerate(spec.rewards):
            part = rewards.get(reward.key)
            if part is None:
                continue
            if method and method.capability("needs_gradient") and not part.capability("differentiable"):
                message = (
                    f"{reward.name!r} is not differentiable, and method {method.name!r} needs its gradient. "
                    "Use it in validation.rewards, or take a method without gradients."
                )
                self._say(f"rewards.{index}.name", message)
            self._judge_frames(f"rewards.{index}.name", part, video)

    def _resolve_adapter(self, backbone: ResolvedComponent | None, download: bool) -> tuple[RunSpec, Path | None]:
        """The spec with what the file that its adapter starts from decides, wherever the spec is silent; the file."""
        adapter = self._spec.backbone.adapter
        if adapter.init is None or backbone is None:
            return self._spec, None
        try:
            path = adapter_source.locate(adapter.init, cached=not download)
            if path is None:
                return self._spec, None
            found = adapter_source.shape_of(backbone, path)
        except WeightsError as error:
            self._say("backbone.adapter.init", str(error))
            return self._spec, None
        said = {name: getattr(adapter, name) for name in adapter.model_fields_set}
        if said.get("rank", found.rank) != found.rank:
            message = f"{adapter.init} has rank {found.rank}, found {adapter.rank}. Leave rank out, or set it to that."
            self._say("backbone.adapter.rank", message)
        section = self._spec.backbone.model_copy(update={"adapter": found.model_copy(update=said)})
        return self._spec.model_copy(update={"backbone": section}), path

    def _judge_frames(self, path: str, part: ResolvedComponent, video: Video | None) -> None:
        if video is None or (self._spec.frames.index or 0) >= video.frames:
            return
        from vader.diffusion.frames import fewest

        needed, given = part.capability("frames"), fewest(self._spec.frames.mode, video.frames)
        if given < needed:
            mode = self._spec.frames.mode
            self._say(path, f"{part.name!r} needs {needed} frames; frames.mode {mode} gives {given}. Use mode: all.")

    def _prompts(self, loc: Loc) -> PromptSource | None:
        part = self._parts.get(loc)
        if part is None:
            return None
        try:
            return cast(PromptSource, part.build())
        except ValueError as error:
            self._say((*loc, "options"), str(error))
            return None
