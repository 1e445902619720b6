"""States of a spec that no component could serve: refused before anything is imported."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from vader.errors import PathError
from vader.paths import user_path
from vader.spec.run import RunSpec

Finding = tuple[str, str]
"""Dotted path and message."""


def inconsistencies(spec: RunSpec) -> Iterator[Finding]:
    """Fields that do not go together, by the spec alone."""
    yield from _gradient(spec)
    yield from _rollout(spec)
    yield from _early_stop(spec)
    yield from _sharding(spec)
    yield from _frames(spec)
    if spec.train.warmup_steps >= spec.train.steps and spec.train.warmup_steps > 0:
        yield "train.warmup_steps", f"{spec.train.warmup_steps} is not less than train.steps = {spec.train.steps}."
    if spec.train.offload_activations and not spec.train.gradient_checkpointing:
        message = "everything that the denoiser computes would be moved. Set train.gradient_checkpointing to true."
        yield "train.offload_activations", message
    yield from _duplicate_labels(spec)
    yield from _terms(spec)
    yield from _paths(spec)


def _paths(spec: RunSpec) -> Iterator[Finding]:
    """Paths that no file can have."""
    adapter, frozen = spec.backbone.adapter, spec.backbone.frozen_adapters
    named = {"output": spec.output, "backbone.adapter.init": adapter.init}
    named |= {f"backbone.frozen_adapters.{index}.init": one.init for index, one in enumerate(frozen)}
    for path, said in named.items():
        try:
            if said is not None:
                user_path(said)
        except PathError as error:
            yield path, str(error)


def _terms(spec: RunSpec) -> Iterator[Finding]:
    """What a reward's term aims at, and the validation that its scale comes from."""
    for index, reward in enumerate(spec.rewards):
        if reward.target is not None and reward.threshold is not None:
            yield f"rewards.{index}.threshold", "a reward has a threshold or a target, not both. Remove one of the two."
        if reward.normalize != "none" and spec.validation.clips < 2:
            message = (
                f"{reward.normalize} takes the spread of the scores from the first validation, which has "
                f"{spec.validation.clips} clips. Set validation.clips to 2 or more (32 give a sound spread)."
            )
            yield f"rewards.{index}.normalize", message


def _gradient(spec: RunSpec) -> Iterator[Finding]:
    """Fields of ``gradient`` that do not go together, or not with the number of denoising steps."""
    gradient, steps = spec.gradient, spec.sampler.steps
    if gradient.mode in ("tail", "uniform", "subset") and gradient.k is None:
        yield "gradient.k", f"mode {gradient.mode} needs k, the number of steps with gradient. Add k: 1 or more."
    if gradient.mode in ("last", "specific") and gradient.k is not None:
        yield "gradient.k", f"k = {gradient.k} means nothing to mode {gradient.mode}. Use mode: tail, or remove k."
    if gradient.k is not None and gradient.k > steps:
        yield "gradient.k", f"k = {gradient.k} is more than sampler.steps = {steps}. Expected 1 to {steps}."
    if gradient.mode == "specific" and gradient.from_step is None:
        yield "gradient.from_step", f"mode specific needs from_step, expected 0 to {steps - 1}."
    if gradient.mode != "specific" and gradient.from_step is not None:
        yield (
            "gradient.from_step",
            f"from_step means nothing to mode {gradient.mode}. Use mode: specific, or remove it.",
        )
    if gradient.from_step is not None and gradient.from_step >= steps:
        message = f"{gradient.from_step} is past the last step. Expected 0 to {steps - 1} (sampler.steps = {steps})."
        yield "gradient.from_step", message
    if gradient.original and gradient.mode in ("uniform", "subset"):
        yield (
            "gradient.original",
            f"mode {gradient.mode} has steps after its first. Use mode: rand, or original: false.",
        )
    for name in ("original", "stop_gradient"):
        if gradient.renoise is not None and getattr(gradient, name):
            yield f"gradient.{name}", "renoise already decodes one predicted step. Remove one of the two."
    if gradient.renoise is not None and gradient.mode != "last":
        yield "gradient.renoise", f"it re-noises the last step; mode {gradient.mode} is another. Use mode: last."


def _rollout(spec: RunSpec) -> Iterator[Finding]:
    """Fields of ``rollout`` that do not go together, or not with the number of denoising steps."""
    rollout, steps = spec.rollout, spec.sampler.steps
    if rollout.reuse is not None and rollout.coarse_steps is not None:
        yield "rollout.coarse_steps", "reuse says already which steps make a prediction. Remove one of the two."
    if rollout.coarse_steps is not None and rollout.coarse_steps > steps:
        message = f"{rollout.coarse_steps} is more than sampler.steps = {steps}. Expected 1 to {steps}."
        yield "rollout.coarse_steps", message
    if rollout.reuse is not None:
        start, end = rollout.reuse.from_step, rollout.reuse.to_step or steps
        if start >= end:
            name = "sampler.steps" if rollout.reuse.to_step is None else "to_step"
            yield "rollout.reuse.from_step", f"{start} is not before {name} = {end}. Expected 0 to {end - 1}."
    if rollout.cache is not None and spec.train.compile:
        yield "rollout.cache", "a cache puts hooks into blocks, which would be compiled again each time. Remove one."
    if rollout.guidance_every > 1 and spec.sampler.guidance_scale == 1:
        message = "there is no guidance at sampler.guidance_scale 1. Remove it, or set a scale."
        yield "rollout.guidance_every", message


def _sharding(spec: RunSpec) -> Iterator[Finding]:
    """What weights that are shared out do not go with: all processes must call every block, together."""
    sharding = spec.train.sharding
    if sharding.strategy == "none":
        for name in ("offload", "rewards"):
            if getattr(sharding, name) not in ("none", False):
                yield f"train.sharding.{name}", "nothing is shared out. Set strategy to full or hybrid, or remove it."
        return
    if spec.rollout.cache is not None:
        message = "what it leaves out depends on the clip, and blocks that are shared out are called by all processes."
        yield "rollout.cache", f"{message} Remove it, or train.sharding; rollout.reuse saves calls too."
    if spec.train.offload_activations:
        message = "calls of a denoiser that is shared out are made again in backward, so little is kept."
        yield "train.offload_activations", f"{message} Remove it, or train.sharding."
    if spec.train.compile:
        yield "train.compile", "compiled blocks cannot be shared out (train.sharding). Remove one of the two."


def _early_stop(spec: RunSpec) -> Iterator[Finding]:
    """What ``train.early_stop`` needs: a score that validations have, and validations to look at."""
    stop = spec.train.early_stop
    if stop is None:
        return
    known = [reward.key for reward in (*spec.validation.rewards, *spec.rewards)]
    if stop.score not in known:
        near = difflib.get_close_matches(stop.score, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        message = f"no reward is called {stop.score!r}.{hint} Known: {', '.join(known) or 'none'}."
        yield "train.early_stop.score", message
    if spec.train.validate_every is None or spec.validation.clips == 0:
        yield "train.early_stop", "it looks at validations. Set train.validate_every, and validation.clips above 0."


def _frames(spec: RunSpec) -> Iterator[Finding]:
    mode, index = spec.frames.mode, spec.frames.index
    if mode == "index" and index is None:
        yield "frames.index", "mode index needs index, the frame to decode."
    if mode != "index" and index is not None:
        yield "frames.index", f"index means nothing to mode {mode}. Use mode: index, or remove it."


def _duplicate_labels(spec: RunSpec) -> Iterator[Finding]:
    for section, rewards in (("rewards", spec.rewards), ("validation.rewards", spec.validation.rewards)):
        seen: dict[str, int] = {}
        for index, reward in enumerate(rewards):
            if reward.key in seen:
                message = f"{reward.key!r} already names {section}.{seen[reward.key]} in the logs."
                yield f"{section}.{index}.label", f"{message} Give one of them a label."
            seen[reward.key] = index
