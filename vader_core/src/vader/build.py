"""From a spec to live components: the only caller of component constructors.

:func:`plan` judges a spec with nothing but class attributes and cheap constructors, and says every mistake at once.
:func:`assemble` then loads weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from vader import code_record, registry
from vader.errors import IsolationError, Problem, RegistryError, SpecError, WeightsError
from vader.isolation.component import Isolated
from vader.overview import require_sound
from vader.protocols import PromptSource, Reward, Video
from vader.spec import AdapterSpec, IsolateSpec, Options, RunSpec
from vader.spec_source import Loc, SpecSource, form_problems, impossible, read_source, unknown_field

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vader.methods.scene import Scene
    from vader.protocols import Backbone, Sampler

Spec = RunSpec | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class Part:
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
        return self.component(self.options, **arguments) if self.options is not None else self.component(**arguments)

    def capability(self, name: str, default: Any) -> Any:
        """A capability: a class attribute, or its default for a component that leaves it out."""
        return getattr(self.component, name, default)


class FunctionReward:
    """A plain function ``f(frames, prompts) -> (b,)`` as a reward."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def score(self, frames: Any, prompts: Any) -> Any:
        """See :class:`vader.protocols.Reward`."""
        return self._function(frames, prompts)


@dataclass(frozen=True)
class Plan:
    """A spec that has been judged: resolved, its components known, its prompt sources open, no weight loaded."""

    spec: RunSpec
    video: Video
    backbone: Part
    sampler: Part
    method: Part
    prompts: PromptSource
    validation_prompts: PromptSource
    rewards: Mapping[str, Part]
    held_out: Mapping[str, Part]

    @property
    def initial_adapter(self) -> Path | None:
        """Where the adapter starts from, if the spec says so."""
        init = self.spec.backbone.adapter.init
        return Path(init).expanduser() if init is not None else None


def check(spec: Spec, overrides: Sequence[str] = ()) -> RunSpec:
    """Judge a spec without loading any weight.

    Args:
        spec: a :class:`RunSpec`, a mapping, or the path of a YAML file.
        overrides: dotted ``path=value`` strings, applied first.

    Returns:
        The resolved spec.

    Raises:
        SpecError: with every mistake found.
    """
    return plan(spec, overrides).spec


def plan(spec: Spec, overrides: Sequence[str] = (), rewards: Sequence[Any] = (), *, training: bool = True) -> Plan:
    """Judge a spec.

    Args:
        spec: see :func:`check`.
        overrides: see :func:`check`.
        rewards: objects, classes or functions to add to the spec's rewards, each with weight 1.
        training: demand a reward to train on.

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
    parts = _Parts(source, problems)
    parts.collect()
    made = None
    if valid is not None:
        problems += impossible(valid, source)
        made = _Judge(valid, source, parts.found, problems).plan(rewards, training)
    if problems or made is None:
        raise SpecError(problems, source.name)
    return made


class _Parts:
    """Finds every component that raw spec data names, and validates its options; notes what is wrong."""

    def __init__(self, source: SpecSource, problems: list[Problem]) -> None:
        self._source, self._problems = source, problems
        self.found: dict[Loc, Part] = {}

    def collect(self) -> None:
        data = self._source.data
        for kind in ("backbone", "sampler", "prompts", "method"):
            self._add(kind, (kind,), data.get(kind))
        validation = data.get("validation")
        validation = validation if isinstance(validation, dict) else {}
        self._add("prompts", ("validation", "prompts"), validation.get("prompts"))
        for base, owner in ((("rewards",), data), (("validation", "rewards"), validation)):
            rewards = owner.get("rewards")
            for index, node in enumerate(rewards if isinstance(rewards, list | tuple) else ()):
                self._add("reward", (*base, index), node)

    def _add(self, kind: str, loc: Loc, node: Any) -> None:
        name = node if isinstance(node, str) else node.get("name") if isinstance(node, dict) else None
        options = node.get("options") if isinstance(node, dict) else None
        isolate = node.get("isolate") if isinstance(node, dict) and kind == "reward" else None
        if isinstance(name, str) and name and isolate is not None:
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
        self.found[loc] = Part("reward", name, reward.component())

    def load(self, kind: str, loc: Loc, name: str, options: Mapping[str, Any]) -> None:
        """Look a component up and validate its options."""
        try:
            component = registry.load(kind, name)
        except RegistryError as error:
            self._problems.append(self._source.problem((*loc, "name"), str(error) + self._remembered(kind, name)))
            return
        if verdict := registry.misfit(kind, component):
            self._problems.append(self._source.problem((*loc, "name"), f"{kind} {name!r} is refused: {verdict}"))
            return
        model = getattr(component, "Options", None)
        where = (*loc, "options")
        if model is None:
            self._problems += [self._source.problem((*where, key), unknown_field(key, [])) for key in options]
            self.found[loc] = Part(kind, name, component)
            return
        if not (isinstance(model, type) and issubclass(model, Options)):
            message = f"{kind} {name!r} has an Options that is not a vader.Options; its author must correct that."
            self._problems.append(self._source.problem((*loc, "name"), message))
            return
        try:
            self.found[loc] = Part(kind, name, component, model.model_validate(dict(options)))
        except ValidationError as error:
            self._problems += form_problems(self._source, error, model, where)

    def _remembered(self, kind: str, name: str) -> str:
        """What the run folder that the spec lies in, or writes to, knows of a component."""
        folders = [Path(self._source.name).parent] if self._source.name else []
        output = self._source.data.get("output")
        folders += [Path(output).expanduser()] if isinstance(output, str) else []
        return next(filter(None, (code_record.remembered(folder, kind, name) for folder in folders)), "")


class _Judge:
    """Judges a spec whose form is right by what its components say of themselves."""

    def __init__(self, spec: RunSpec, source: SpecSource, parts: dict[Loc, Part], problems: list[Problem]) -> None:
        self._spec, self._source, self._parts, self._problems = spec, source, parts, problems

    def _say(self, path: Loc | str, message: str) -> None:
        self._problems.append(self._source.problem(path, message))

    def plan(self, extra: Sequence[Any], training: bool) -> Plan | None:
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
        spec = self._resolve_adapter(backbone)
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
        return Plan(spec, video, backbone, sampler, method, prompts, validation, rewards, held_out)

    def _default(self, kind: str, loc: Loc, name: str) -> Part | None:
        """The part for a name that the spec leaves to a default."""
        finder = _Parts(self._source, self._problems)
        finder.load(kind, loc, name, {})
        return finder.found.get(loc)

    def _sampler(self, backbone: Part | None) -> Part | None:
        spec = self._spec.sampler
        part = self._parts.get(("sampler",))
        if backbone is None:
            return part
        if spec.name is None:
            finder = _Parts(self._source, self._problems)
            finder.load("sampler", ("sampler",), backbone.capability("default_sampler", ""), spec.options)
            part = finder.found.get(("sampler",))
        if part is None:
            return None
        able, made = part.capability("predictions", ()), backbone.capability("predictions", ())
        if not set(able) & set(made):
            message = (
                f"{part.name!r} integrates {', '.join(able)}, "
                f"but backbone {backbone.name!r} predicts {', '.join(made)}. "
                f"Use {backbone.capability('default_sampler', '')!r}, or leave sampler.name out."
            )
            self._say("sampler.name", message)
        if spec.eta > 0 and not part.capability("stochastic", False):
            self._say("sampler.eta", f"{part.name!r} adds no noise; expected eta 0, found {spec.eta}.")
        return part

    def _video(self, backbone: Part | None) -> Video | None:
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
        if spec.train.gradient_checkpointing and not backbone.capability("gradient_checkpointing", False):
            self._say("train.gradient_checkpointing", f"backbone {backbone.name!r} has none; set it to false.")
        return video

    def _rewards(self, base: Loc, extra: Sequence[Any]) -> dict[str, Part]:
        specs = self._spec.rewards if base == ("rewards",) else self._spec.validation.rewards
        parts = {
            spec.key: self._parts[(*base, index)] for index, spec in enumerate(specs) if (*base, index) in self._parts
        }
        for component in extra:
            name = getattr(component, "__name__", type(component).__name__)
            if name in parts:
                self._say("rewards", f"two rewards are called {name!r}. Give the one in the spec a label.")
            options = getattr(component, "Options", None) if isinstance(component, type) else None
            parts[name] = Part("reward", name, component, options() if options is not None else None)
        return parts

    def _judge_rewards(self, method: Part | None, rewards: Mapping[str, Part], video: Video | None) -> None:
        spec = self._spec
        if not spec.rewards and not rewards:
            self._say("rewards", "no reward to train on. Add at least one, such as rewards: [{name: ...}].")
        if spec.rewards and len(rewards) == len(spec.rewards) and all(reward.weight == 0 for reward in spec.rewards):
            self._say("rewards", "every weight is 0, so nothing would be learnt. Give one a weight above 0.")
        for index, reward in enumerate(spec.rewards):
            part = rewards.get(reward.key)
            if part is None:
                continue
            if method and method.capability("needs_gradient", True) and not part.capability("differentiable", True):
                message = (
                    f"{reward.name!r} is not differentiable, and method {method.name!r} needs its gradient. "
                    "Use it in validation.rewards, or take a method without gradients."
                )
                self._say(f"rewards.{index}.name", message)
            self._judge_frames(f"rewards.{index}.name", part, video)

    def _resolve_adapter(self, backbone: Part | None) -> RunSpec:
        """The spec with what the file that its adapter starts from decides, wherever the spec is silent."""
        adapter = self._spec.backbone.adapter
        if adapter.init is None or backbone is None:
            return self._spec
        try:
            found = adapter_shape(backbone, Path(adapter.init).expanduser())
        except WeightsError as error:
            self._say("backbone.adapter.init", str(error))
            return self._spec
        said = {name: getattr(adapter, name) for name in adapter.model_fields_set}
        if said.get("rank", found.rank) != found.rank:
            message = f"{adapter.init} has rank {found.rank}, found {adapter.rank}. Leave rank out, or set it to that."
            self._say("backbone.adapter.rank", message)
        section = self._spec.backbone.model_copy(update={"adapter": found.model_copy(update=said)})
        return self._spec.model_copy(update={"backbone": section})

    def _judge_frames(self, path: str, part: Part, video: Video | None) -> None:
        if video is None or (self._spec.frames.index or 0) >= video.frames:
            return
        from vader.frames import fewest

        needed, given = part.capability("frames", 1), fewest(self._spec.frames.mode, video.frames)
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


def adapter_shape(backbone: Part, path: Path) -> AdapterSpec:
    """Rank, alpha and target modules of a saved adapter, in the backbone's own format or in peft's or diffusers'.

    Raises:
        WeightsError: there is no adapter, or none that can be read.
    """
    from vader import adapters

    own = backbone.capability("adapter_spec", None)
    found: AdapterSpec | None = own(path) if own is not None and path.is_file() else None
    return found.model_copy(update={"init": str(path)}) if found is not None else adapters.spec_of(path)


def foreign_adapter(part: Part, backbone: Backbone, path: Path | None) -> Mapping[str, Tensor] | None:
    """The tensors of an adapter in the backbone's own format; None for one in peft's or diffusers', or none at all.

    Raises:
        WeightsError: it is of another model.
    """
    own = part.capability("adapter_spec", None)
    if own is None or path is None or not path.is_file() or own(path) is None:
        return None
    return cast("Mapping[str, Tensor]", cast(Any, backbone).adapter_state(path))


def assemble_rewards(parts: Mapping[str, Part], device: torch.device, dtype: torch.dtype) -> dict[str, Reward]:
    """Construct rewards; those that are modules are moved, frozen and put in eval mode."""
    from torch import nn

    from vader.protocols import Runtime

    rewards: dict[str, Reward] = {}
    for key, part in parts.items():
        reward = part.build(runtime=Runtime(device, dtype))
        if isinstance(reward, nn.Module):
            reward.to(device).requires_grad_(False).eval()
        rewards[key] = reward if hasattr(reward, "score") else FunctionReward(reward)
    return rewards


def assemble_backbone(plan: Plan, device: torch.device, dtype: torch.dtype) -> Backbone:
    """Load the backbone's weights."""
    from vader.protocols import Runtime

    backbone = cast("Backbone", plan.backbone.build(runtime=Runtime(device, dtype), video=plan.video))
    if plan.spec.train.gradient_checkpointing:
        backbone.enable_gradient_checkpointing()
    return backbone


def assemble_sampler(plan: Plan, backbone: Backbone, device: torch.device) -> Sampler:
    """Construct the sampler for the backbone's noise schedule.

    Raises:
        SpecError: the sampler cannot integrate what the loaded checkpoint predicts.
    """
    from vader.protocols import SamplerContext

    spec = plan.spec.sampler
    able, prediction = plan.sampler.capability("predictions", ()), backbone.schedule.prediction
    if prediction not in able:
        message = f"{plan.sampler.name!r} integrates {', '.join(able)}; the loaded checkpoint predicts {prediction}."
        raise SpecError([Problem("sampler.name", message)])
    context = SamplerContext(backbone.schedule, spec.steps, spec.eta, plan.video, device)
    try:
        return cast("Sampler", plan.sampler.build(context=context))
    except ValueError as error:
        raise SpecError([Problem("sampler", str(error))]) from error


def assemble_scene(
    plan: Plan, backbone: Backbone, denoiser: nn.Module, rewards: Mapping[str, Reward], device: torch.device
) -> Scene:
    """Put live components together for a method."""
    import random

    from vader import frames
    from vader.gradient import window
    from vader.methods.scene import Clock, Scene
    from vader.objective import Objective, Term

    spec = plan.spec
    named = {reward.key: reward for reward in spec.rewards}
    terms = [Term(key, named[key].weight, named[key].target) if key in named else Term(key) for key in plan.rewards]
    gradient, steps = spec.gradient, spec.sampler.steps

    def choose_frames(rng: random.Random) -> list[int]:
        return frames.choose(spec.frames.mode, plan.video.frames, rng, spec.frames.index)

    return Scene(
        backbone=backbone,
        denoiser=denoiser,
        sampler=assemble_sampler(plan, backbone, device),
        video=plan.video,
        rewards=rewards,
        objective=Objective(terms),
        draw_window=window(
            gradient.mode, steps, k=gradient.k, from_step=gradient.from_step, original=gradient.original
        ),
        choose_frames=choose_frames,
        guidance_scale=spec.sampler.guidance_scale,
        branches=gradient.branches,
        recompute=gradient.recompute,
        device=device,
        clock=Clock(device),
    )
