"""What methods say of a spec before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vader.spec import GradientSpec, RolloutSpec, RunSpec

Finding = tuple[str, str]
"""Dotted path and message."""


def no_window(method: str, spec: RunSpec, *, recomputes: bool = False) -> Iterator[Finding]:
    """A method without a gradient window takes no field of ``gradient`` but ``branches`` and, where it ``recomputes``
    denoiser calls in backward, ``recompute``."""
    default = GradientSpec(branches=spec.gradient.branches)
    if recomputes or spec.gradient.recompute is True:  # true: the default once, in spec.yaml of earlier runs
        default = default.model_copy(update={"recompute": spec.gradient.recompute})
    for name in GradientSpec.model_fields:
        if getattr(spec.gradient, name) != getattr(default, name):
            yield f"gradient.{name}", f"method {method} has no gradient window. Remove it."


def whole_groups(method: str, spec: RunSpec, group_size: int) -> Iterator[Finding]:
    """Clips that share a prompt must be in one batch."""
    size = spec.train.batch_size
    if size % group_size:
        message = (
            f"{size} is no multiple of {group_size}, the clips that method {method} makes of each prompt. "
            f"Expected {group_size}, {2 * group_size}, and so on."
        )
        yield "train.batch_size", message


def whole_rounds(method: str, spec: RunSpec, group_size: int) -> Iterator[Finding]:
    """Clips that share a prompt must be in one optimizer step."""
    train = spec.train
    clips = train.batch_size * train.gradient_accumulation * (train.processes or 1)
    if clips % group_size:
        message = (
            f"an optimizer step makes {clips} clips (batch_size x gradient_accumulation, of every process), which is "
            f"no multiple of {group_size}, the clips that method {method} makes of each prompt."
        )
        yield "train.batch_size", message


def euler_steps(method: str, spec: RunSpec, sampler: Any) -> Iterator[Finding]:
    """Velocities and leaps need single steps of a flow, without noise."""
    name = spec.sampler.name or "the default sampler"
    if set(getattr(sampler, "predictions", ())) != {"flow"} or not getattr(sampler, "any_order", False):
        message = (
            f"method {method} needs Euler steps of a flow, which {name} has not. Use flow_euler with a backbone that "
            "predicts flow; for other samplers there are reward_gradient, nft and awm."
        )
        yield "sampler.name", message
    elif spec.sampler.eta != 0:
        yield "sampler.eta", f"method {method} needs steps without noise; expected 0, found {spec.sampler.eta:g}."


def random_steps(method: str, spec: RunSpec, sampler: Any) -> Iterator[Finding]:
    """Log-probabilities of steps need noise in them, and steps that can be taken alone."""
    name = spec.sampler.name or "the default sampler"
    if not getattr(sampler, "stochastic", False) or not getattr(sampler, "any_order", False):
        message = f"method {method} needs single steps with noise, which {name} has not. Use ddim or flow_euler."
        yield "sampler.name", message
    elif spec.sampler.eta == 0:
        yield "sampler.eta", f"method {method} needs noise in every step; expected above 0 (1 is usual), found 0."
    if spec.rollout != RolloutSpec():
        yield "rollout", f"method {method} trains the very steps that were taken; none may be left out. Remove it."
    if spec.backbone.adapter.dropout:
        message = f"dropout makes the probability ratios of method {method} random. Set it to 0."
        yield "backbone.adapter.dropout", message
