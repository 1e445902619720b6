"""What a check is run on: a component with what the kit needs to construct and feed it."""

from __future__ import annotations

import functools
import inspect
import shutil
import tempfile
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from vader.plugins import registry
from vader.plugins.probe import Report, probe
from vader.plugins.registry import Entry
from vader.protocols import Prompt, Video, ability, capability
from vader.testing.checks import Check, Failed, NotApplicable, Outcome, checks_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PROMPTS = (Prompt("a red circle"), Prompt("a dog runs over a meadow"), Prompt("rain on a window at night"))

A = TypeVar("A")

MakeClips = Callable[[int, int, int, int], "Tensor"]
"""``(b, f, h, w) -> (b f 3 h w)`` in [0, 1]; the same arguments give the same clips."""


class Subject:
    """A component under test.

    Args:
        kind: ``reward``, ``backbone``, ``sampler``, ``prompts`` or ``method``.
        component: a registered name, ``./file.py:Name``, a class, a function or a finished object.
        options: the component's options.
        prompts: prompts that mean something to it; at least two.
        make_clips: clips that mean something to a reward; by default smooth random pictures.
        size: height and width of the clips given to a reward.
        video: the clip a backbone is to make; by default the smallest it agrees to.
        backbone: whose latents a reward scores: a name, a class or a Subject; needed where its ``input`` is latents.
        expected_failures: check -> the reason why it cannot hold; a declared check that passes is a failure.
    """

    def __init__(
        self,
        kind: str,
        component: Any,
        options: Mapping[str, Any] | None = None,
        *,
        prompts: Sequence[Prompt] = PROMPTS,
        make_clips: MakeClips | None = None,
        size: tuple[int, int] = (32, 32),
        video: Mapping[str, float] | None = None,
        backbone: Any = None,
        expected_failures: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.given, self.size = kind, component, size
        self.prompts, self.make_clips, self.video_wanted = tuple(prompts), make_clips, video
        self.raw_options = dict(options) if options is not None else None
        self.expected = dict(expected_failures or {})
        self._backbone = backbone
        self._outcomes: dict[str, Outcome] = {}
        self._built: dict[Any, Any] = {}
        unknown = self.expected.keys() - checks_of(kind).keys() if self.expected else ()
        if unknown:
            known = ", ".join(checks_of(kind))
            raise ValueError(f"no check of a {kind} is called {', '.join(sorted(unknown))}. Checks: {known}.")

    # -- what it is

    @property
    def registered(self) -> bool:
        """Whether it is known by a registered name."""
        return isinstance(self.given, str) and registry.unpackaged(self.given) is None

    @cached_property
    def entry(self) -> Entry:
        """Its registration."""
        return registry.find(self.kind, self.given)

    @cached_property
    def report(self) -> Report:
        """What importing it in another process does."""
        if not self.registered:
            raise NotApplicable("it is not known by a registered name.")
        report = probe([self.entry], timeout=120)[0]
        if report.status != "ok":
            raise NotApplicable(report.cause)
        return report

    @cached_property
    def component(self) -> Any:
        """The class, function or object."""
        return registry.load(self.kind, self.given) if isinstance(self.given, str) else self.given

    @property
    def key(self) -> Hashable:
        """Equal for subjects that would be judged alike."""
        given = self.given if isinstance(self.given, str) else id(self.given)
        return (
            given,
            repr(self.raw_options),
            repr(self.prompts),
            self.size,
            repr(self.video_wanted),
            id(self.make_clips),
            repr(self._backbone),
        )

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.given if isinstance(self.given, str) else getattr(self.given, "__name__", type(self.given).__name__)

    def class_or_skip(self) -> type:
        """Its class.

        Raises:
            NotApplicable: it is a function or a finished object.
        """
        if not isinstance(self.component, type):
            raise NotApplicable("it is not a class, so it has no options and no constructor.")
        return self.component

    def capability(self, name: str) -> Any:
        """See :func:`vader.protocols.capability`."""
        return capability(self.component, name)

    def ability(self, wanted: type[A]) -> A | None:
        """See :func:`vader.protocols.ability`."""
        return ability(self.kind, self.component, wanted)

    @cached_property
    def owner(self) -> Subject | None:
        """The backbone whose latents it scores; None for what does not score latents.

        Raises:
            Failed: it scores latents, and was given none.
        """
        if self.kind != "reward" or self.capability("input") != "latents":
            return None
        if self._backbone is None:
            raise Failed("it scores latents: give the kit the backbone that they are of.")
        return self._backbone if isinstance(self._backbone, Subject) else Subject("backbone", self._backbone)

    # -- building it

    @cached_property
    def options(self) -> Any:
        """Its validated options; None when it has no ``Options``."""
        model = getattr(self.component, "Options", None)
        if model is None:
            return None
        try:
            return model.model_validate(self.chosen_options)
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise Failed(f"its options {self.chosen_options} are refused: {said}. Give the kit valid ones.") from error

    @cached_property
    def chosen_options(self) -> dict[str, Any]:
        """The given options; for a backbone that was given none, those of its tiny random configuration."""
        if self.raw_options is not None or self.kind != "backbone":
            return self.raw_options or {}
        tiny = self.tiny_writer()
        if tiny is None:
            return {}
        folder = tempfile.mkdtemp(prefix="vader-tiny-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return {"weights": str(tiny(Path(folder) / "tiny"))}

    def tiny_writer(self) -> Callable[[Path], Path] | None:
        """``write(folder)`` of the module ``tiny`` beside the backbone's module; None when there is none.

        Where it takes a ``family`` and the module lists the backbone's name in ``FAMILIES``, it writes that family.
        """
        package = self.component.__module__.rpartition(".")[0]
        if not package or inspect.getattr_static(self.component, "Options", None) is None:
            return None
        if "weights" not in self.component.Options.model_fields:
            return None
        try:
            module = __import__(f"{package}.tiny", fromlist=["write"])
        except ModuleNotFoundError:
            return None
        write = cast("Callable[..., Path] | None", getattr(module, "write", None))
        if write is not None and self.given in getattr(module, "FAMILIES", ()):
            return functools.partial(write, family=self.given)
        return write

    def build(self, dtype: torch.dtype | None = None, *, options: Any = None, **offered: Any) -> Any:
        """A new instance, as a run constructs it.

        Args:
            dtype: of the frozen weights; float32 when None.
            options: in place of the subject's own.
            offered: further objects for the constructor.
        """
        from vader.resolve.build import assemble_rewards
        from vader.resolve.components import ResolvedComponent

        part = ResolvedComponent(
            self.kind, self.title, self.component, options if options is not None else self.options
        )
        if self.kind not in ("reward", "backbone"):
            return part.build(**offered)
        import torch

        from vader.protocols import Runtime

        runtime = Runtime(torch.device("cpu"), dtype or torch.float32)
        if self.kind == "reward":
            owner = self.owner.live(dtype) if self.owner is not None else None
            return assemble_rewards({"reward": part}, runtime.device, runtime.dtype, None, owner)["reward"]
        return part.build(runtime=runtime, video=self.video, **offered)

    def live(self, dtype: torch.dtype | None = None) -> Any:
        """An instance that checks share; they do not change it."""
        if dtype not in self._built:
            self._built[dtype] = self.build(dtype)
        return self._built[dtype]

    # -- feeding it

    def clips(self, b: int, f: int, h: int | None = None, w: int | None = None) -> Tensor:
        """``(b f 3 h w)`` float32 in [0, 1], the same for the same arguments; every clip and frame is another.

        For a reward that scores latents, such latents, ``(b ...)``, of the size that the backbone makes.
        """
        if self.owner is not None:
            import torch

            shape = self.owner.live().latent_shape(self.owner.video)
            return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(row)) for row in range(b)])
        height, width = h or self.size[0], w or self.size[1]
        if self.make_clips is not None:
            return self.make_clips(b, f, height, width)
        return smooth_clips(b, f, height, width)

    def texts(self, b: int) -> list[Prompt]:
        """``b`` prompts, with images for a backbone that needs them."""
        prompts = self._pictured if self.kind == "backbone" else self.prompts
        return [prompts[index % len(prompts)] for index in range(b)]

    @cached_property
    def _pictured(self) -> Sequence[Prompt]:
        """The prompts; those without an image get one where the backbone takes no other."""
        if self.capability("takes_image") != "required":
            return self.prompts
        from PIL import Image

        folder = Path(tempfile.mkdtemp(prefix="vader-pictures-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        found = []
        for index, prompt in enumerate(self.prompts):
            path = folder / f"{index}.png"
            Image.linear_gradient("L").rotate(90 * index).convert("RGB").save(path)
            found.append(prompt if prompt.image is not None else replace(prompt, image=path))
        return found

    @cached_property
    def video(self) -> Video:
        """The clip a backbone is asked for: the wanted one, or the smallest that it agrees to."""
        resolve = self.component.resolve_video
        if self.video_wanted is not None:
            return cast(Video, resolve(self.options, self.video_wanted))
        for frames in (5, 4, 8, 9, 16, 17):
            for side in (16, 32, 64, 8, 128):
                try:
                    return cast(Video, resolve(self.options, {"frames": frames, "height": side, "width": side}))
                except ValueError:
                    continue
        return cast(Video, resolve(self.options, {}))

    # -- judging it

    def outcome(self, name: str) -> Outcome:
        """Run a check, after those that it needs; the result is kept."""
        if name not in self._outcomes:
            self._outcomes[name] = self._judge(checks_of(self.kind)[name])
        return self._outcomes[name]

    def outcomes(self) -> list[Outcome]:
        """Every check of its kind."""
        return [self.outcome(name) for name in checks_of(self.kind)]

    def _judge(self, check: Check) -> Outcome:
        for needed in check.needs:
            before = self.outcome(needed)
            if before.status in ("failed", "not applicable"):
                why = f"{needed} {'fails' if before.status == 'failed' else 'does not apply: ' + before.message}"
                return Outcome(check.name, check.promise, "not applicable", why)
        reason = self.expected.get(check.name)
        try:
            check.run(self)
        except NotApplicable as skip:
            return Outcome(check.name, check.promise, "not applicable", str(skip))
        except Exception as error:
            said = str(error) if isinstance(error, Failed) else f"raised {type(error).__name__}: {error}"
            if reason is not None:
                return Outcome(check.name, check.promise, "expected", reason)
            return Outcome(check.name, check.promise, "failed", said)
        if reason is not None:
            message = f"it holds, though its failure was declared ({reason}). Remove the declaration."
            return Outcome(check.name, check.promise, "surprise", message)
        return Outcome(check.name, check.promise, "passed")


def smooth_clips(b: int, f: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Smooth random pictures with a little grain, in [0.15, 0.85]; ``(b f 3 h w)`` float32."""
    import torch
    from torch.nn import functional

    clips = []
    for clip in range(b):
        generator = torch.Generator().manual_seed(7919 * seed + clip)
        coarse = torch.rand(max(f, 24), 3, 4, 4, generator=generator)[:f]
        grain = torch.rand(max(f, 24), 3, 1, 1, generator=generator)[:f]
        picture = functional.interpolate(coarse, (h, w), mode="bicubic", align_corners=False).clamp(0, 1)
        noise = torch.rand(f, 3, h, w, generator=generator)
        clips.append(0.15 + 0.7 * (0.7 * picture + 0.2 * grain + 0.1 * noise))
    return torch.stack(clips)


def as_subject(kind: str, value: Any, expected_failures: Mapping[str, str]) -> Subject:
    """A subject from what a fixture gives."""
    if isinstance(value, Subject):
        for name, reason in expected_failures.items():
            value.expected.setdefault(name, reason)
        return value
    return Subject(kind, value, expected_failures=expected_failures)
