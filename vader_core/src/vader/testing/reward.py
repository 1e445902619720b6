"""Checks of rewards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vader.protocols import SCORE, Prompt, score_and_parts
from vader.testing.checks import Failed, NotApplicable, check, expect
from vader.testing.subject import Subject, smooth_clips

BATCH = 2


def _needed(subject: Subject) -> int:
    return int(subject.capability("frames"))


def _differentiable(subject: Subject) -> bool:
    return bool(subject.capability("differentiable"))


def _require_gradient(subject: Subject) -> None:
    if not _differentiable(subject):
        raise NotApplicable("it says differentiable = False.")


def _score(subject: Subject, clips: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return _scored(subject, clips, subject.texts(len(clips)), dtype)


def _scored(subject: Subject, clips: Tensor, prompts: Sequence[Prompt], dtype: torch.dtype | None = None) -> Tensor:
    """The score that counts; what has no shape is for the check to judge."""
    given = _given(subject, clips, prompts, dtype)
    scores: Tensor = given[SCORE] if isinstance(given, Mapping) and SCORE in given else given
    return scores


def _given(
    subject: Subject, clips: Tensor, prompts: Sequence[Prompt], dtype: torch.dtype | None = None, timestep: float = 0
) -> Any:
    """What the reward gives for frames or, where it scores latents, for those."""
    reward = subject.live(dtype)
    if subject.owner is None:
        return reward.score(clips, prompts)
    with torch.no_grad():
        conditioning = subject.owner.live(dtype).encode(prompts)
    return reward.score(clips, torch.full((len(clips),), timestep), conditioning)


def _require_frames(subject: Subject) -> None:
    if subject.owner is not None:
        raise NotApplicable("it scores latents.")


def _gradient(subject: Subject, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Scores ``(b,)`` and their gradient ``(b f c h w)``, clip by clip."""
    leaf = clips.detach().clone().requires_grad_(True)
    scores = _score(subject, leaf)
    if not scores.requires_grad:
        raise Failed(
            "its scores carry no gradient. Compute them with torch, without detach, no_grad, numpy or item(); "
            "or declare differentiable = False."
        )
    (gradient,) = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise Failed("its scores carry a gradient that does not reach the frames.")
    return scores.detach(), gradient


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    scale = 1.0 + float(one.detach().abs().max())
    return bool((one.detach().double() - other.detach().double()).abs().max() <= tolerance * scale)


def _show(values: Tensor) -> str:
    return "[" + ", ".join(f"{float(value):.6g}" for value in values.detach().flatten()[:4]) + "]"


@check("reward")
def scores_have_the_shape(subject: Subject) -> None:
    """It gives one number a clip, (b,), of a floating type, for batches of 1 and more; several are a mapping."""
    for b in (1, 2, 3):
        given = _given(subject, subject.clips(b, _needed(subject)), subject.texts(b))
        if isinstance(given, Mapping):
            try:
                score_and_parts(given, b)
            except ValueError as error:
                raise Failed(f"it {error}") from error
        scores = _score(subject, subject.clips(b, _needed(subject)))
        expect(isinstance(scores, Tensor), f"score gave {type(scores).__name__}; expected a tensor.")
        seen = tuple(scores.shape)
        expect(seen == (b,), f"{b} clips give scores of shape {seen}; expected ({b},).")
        expect(scores.is_floating_point(), f"scores are {scores.dtype}; expected a floating type.")


@check("reward", needs=("scores_have_the_shape",))
def any_size_is_scored(subject: Subject) -> None:
    """Frames of any height and width are scored."""
    _require_frames(subject)
    height, width = subject.size
    for h, w in ((height, width), (height, width + 7), (height * 3 // 2 + 1, width)):
        scores = _score(subject, subject.clips(BATCH, _needed(subject), h, w))
        expect(bool(scores.isfinite().all()), f"clips of {h}x{w} score {_show(scores)}; expected finite numbers.")


@check("reward", needs=("scores_have_the_shape",))
def any_number_of_frames_is_scored(subject: Subject) -> None:
    """The number of frames it declares is enough, and more are scored too."""
    _require_frames(subject)
    needed = _needed(subject)
    for f in (needed, needed + 1, needed + 4):
        scores = _score(subject, subject.clips(BATCH, f))
        fine = tuple(scores.shape) == (BATCH,) and bool(scores.isfinite().all())
        expect(fine, f"{f} frames a clip give {_show(scores)}; it declares that {needed} or more are enough.")


@check("reward", needs=("scores_have_the_shape",))
@torch.no_grad()
def any_timestep_is_scored(subject: Subject) -> None:
    """Where it scores latents, those of any timestep have a finite score, pure noise and clean ones included."""
    if subject.owner is None:
        raise NotApplicable("it scores frames.")
    clips, prompts = subject.clips(BATCH, 1), subject.texts(BATCH)
    schedule = subject.owner.live().schedule
    last = schedule.train_timesteps - (schedule.alphas_cumprod is not None)
    for timestep in (0, 1, last // 2, last):
        scores = _given(subject, clips, prompts, timestep=timestep)
        expect(bool(scores.isfinite().all()), f"at timestep {timestep} latents score {_show(scores)}; expected finite.")


@check("reward", needs=("scores_have_the_shape",))
def scores_are_finite_at_the_ends(subject: Subject) -> None:
    """Black and white clips have finite scores; so have latents of zeros and of ones."""
    for value, name in ((0.0, "black"), (1.0, "white")):
        clips = torch.full_like(subject.clips(BATCH, _needed(subject)), value)
        scores = _score(subject, clips)
        expect(bool(scores.isfinite().all()), f"{name} clips score {_show(scores)}; expected finite numbers.")


@check("reward", needs=("scores_have_the_shape",))
@torch.no_grad()
def clips_are_independent(subject: Subject) -> None:
    """A clip's score depends on that clip alone, not on its neighbours or its place."""
    clips, prompts = subject.clips(3, _needed(subject)), subject.texts(3)
    together = _scored(subject, clips, prompts)
    for i in range(3):
        alone = _scored(subject, clips[i : i + 1], prompts[i : i + 1])
        message = f"clip {i} scores {float(alone):.6g} alone and {float(together[i]):.6g} among others; expected equal."
        expect(_close(alone[0], together[i], 1e-4), message)


@check("reward", needs=("scores_have_the_shape",))
def scores_are_deterministic(subject: Subject) -> None:
    """The same clips and prompts score the same, whatever was scored in between."""
    clips = subject.clips(BATCH, _needed(subject))
    first = _score(subject, clips).detach().clone()
    _score(subject, 1 - clips)
    second = _score(subject, clips)
    expect(_close(first, second, 1e-6), f"the same clips score {_show(first)}, then {_show(second)}; expected equal.")


@check("reward", needs=("scores_have_the_shape",))
def global_random_state_is_left_alone(subject: Subject) -> None:
    """It draws nothing from the global random generators of torch, numpy and Python."""
    unmoved(lambda: _score(subject, subject.clips(BATCH, _needed(subject))))


@check("reward", needs=("scores_have_the_shape",))
def input_is_not_changed(subject: Subject) -> None:
    """The frames it is given are not written to."""
    clips = subject.clips(BATCH, _needed(subject))
    given = clips.clone()
    _score(subject, given)
    expect(torch.equal(clips, given), "scoring changed the frames in place. Work on a copy.")


@check("reward", needs=("scores_have_the_shape",))
def parameters_are_frozen(subject: Subject) -> None:
    """Its own weights do not ask for gradients."""
    _score(subject, subject.clips(BATCH, _needed(subject)))
    count = sum(
        parameter.requires_grad for module in modules_of(subject.live()) for parameter in module.parameters(True)
    )
    expect(count == 0, f"{count} of its parameters ask for gradients. Call requires_grad_(False) on its networks.")


@check("reward", needs=("scores_have_the_shape",))
def networks_are_in_eval_mode(subject: Subject) -> None:
    """Its networks are in evaluation mode: no dropout, no batch statistics."""
    _score(subject, subject.clips(BATCH, _needed(subject)))
    names = [type(module).__name__ for module in modules_of(subject.live()) if module.training]
    expect(not names, f"{', '.join(names)} is in training mode. Call eval() on it.")


@check("reward", needs=("scores_have_the_shape",))
def half_precision_is_tolerated(subject: Subject) -> None:
    """Frames in bfloat16 and float16, and weights in bfloat16, give finite scores near those in float32."""
    clips = subject.clips(BATCH, _needed(subject))
    full = _score(subject, clips)
    kinds = ((None, torch.bfloat16), (None, torch.float16), (torch.bfloat16, torch.float32))
    for weights, frames in kinds:
        scores = _score(subject, clips.to(frames), weights).float()
        what = f"{frames} frames and {weights or torch.float32} weights"
        fine = bool(scores.isfinite().all()) and _close(full.float(), scores, 0.1)
        expect(fine, f"{what} score {_show(scores)}; in float32 they score {_show(full)}.")


@check("reward", needs=("scores_have_the_shape",))
def gradient_reaches_the_frames(subject: Subject) -> None:
    """If it is differentiable, every clip gets a gradient that is finite and not zero."""
    _require_gradient(subject)
    _, gradient = _gradient(subject, subject.clips(BATCH, _needed(subject)))
    expect(bool(gradient.isfinite().all()), "the gradient of its scores is not finite at ordinary clips.")
    sizes = gradient.flatten(1).abs().amax(1)
    expect(bool((sizes > 0).all()), f"the largest gradient of each clip is {_show(sizes)}; expected none to be 0.")


@check("reward", needs=("gradient_reaches_the_frames",))
def gradient_is_finite_at_the_ends(subject: Subject) -> None:
    """The gradient is finite at black and at white clips."""
    for value, name in ((0.0, "black"), (1.0, "white")):
        _, gradient = _gradient(subject, torch.full_like(subject.clips(BATCH, _needed(subject)), value))
        expect(bool(gradient.isfinite().all()), f"the gradient at {name} clips is not finite. Guard roots and logs.")


@check("reward", needs=("gradient_reaches_the_frames", "clips_are_independent", "scores_are_deterministic"))
def gradient_equals_finite_differences(subject: Subject) -> None:
    """The gradient is the slope of the score, by central differences along two directions."""
    clips = subject.clips(BATCH, _needed(subject))
    _, gradient = _gradient(subject, clips)
    generator = torch.Generator().manual_seed(0)
    grain = (*clips.shape[:3], *[1] * (clips.ndim - 3))
    signs = torch.randint(0, 2, grain, generator=generator).to(clips.dtype) * 2 - 1
    size = gradient.flatten(1).norm(dim=1)
    for name, direction in (("along itself", gradient), ("along random signs", signs.expand_as(clips))):
        direction = direction / direction.flatten(1).abs().amax(1).view(-1, *[1] * (clips.ndim - 1))
        slope = (gradient * direction).flatten(1).sum(1)
        room = 0.02 * slope.abs() + 1e-3 * size * direction.flatten(1).norm(dim=1)
        best, seen = None, torch.zeros(())
        for eps in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4):
            rise = _score(subject, clips + eps * direction) - _score(subject, clips - eps * direction)
            measured = rise.detach() / (2 * eps)
            error = ((measured - slope).abs() / room).max()
            if best is None or error < best:
                best, seen = error, measured
        message = f"{name} the gradient promises a slope of {_show(slope)}; the scores rise by {_show(seen)}."
        expect(best is not None and bool(best <= 1), message)


@check("reward", needs=("gradient_equals_finite_differences",))
def an_ascent_step_raises_the_score(subject: Subject) -> None:
    """One small step along the gradient raises the score of every clip."""
    clips = subject.clips(BATCH, _needed(subject))
    before, gradient = _gradient(subject, clips)
    direction = gradient / gradient.flatten(1).abs().amax(1).view(-1, *[1] * (clips.ndim - 1))
    raised = torch.zeros(len(clips), dtype=torch.bool)
    for eps in (5e-2, 1e-2, 3e-3):
        raised |= _score(subject, clips + eps * direction).detach() > before
    expect(bool(raised.all()), f"steps of 0.05, 0.01 and 0.003 along the gradient do not raise {_show(before)}.")


@check("reward", needs=("scores_have_the_shape",))
def differentiable_is_true(subject: Subject) -> None:
    """If it says that it is not differentiable, no gradient reaches the frames."""
    if _differentiable(subject):
        raise NotApplicable("it says differentiable = True, which gradient_reaches_the_frames judges.")
    leaf = subject.clips(BATCH, _needed(subject)).requires_grad_(True)
    scores = _score(subject, leaf)
    gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    useless = gradient is None or not bool(gradient.abs().max() > 0)
    expect(useless, "it says differentiable = False, and a gradient reaches the frames. Declare True, or detach.")


@check("reward", needs=("scores_have_the_shape", "scores_are_deterministic"))
@torch.no_grad()
def needs_prompt_is_true(subject: Subject) -> None:
    """Prompts change its scores if it says so, and only then."""
    clips = subject.clips(1, _needed(subject))
    scores = [float(_scored(subject, clips, [prompt])) for prompt in subject.prompts]
    differ = max(scores) - min(scores) > 1e-6 * (1 + abs(scores[0]))
    declared = bool(subject.capability("needs_prompt"))
    shown = ", ".join(f"{prompt.text!r}: {score:.6g}" for prompt, score in zip(subject.prompts, scores, strict=True))
    if declared:
        message = f"it says needs_prompt = True, and prompts do not matter ({shown}). Declare False, or give the kit "
        expect(differ, message + "prompts that mean something to it.")
    else:
        expect(not differ, f"it says needs_prompt = False, and prompts matter ({shown}). Declare True.")


def modules_of(owner: Any, depth: int = 3) -> Iterator[nn.Module]:
    """The networks that an object holds, in its attributes and in their lists and dictionaries."""
    if isinstance(owner, nn.Module):
        yield owner
        return
    if depth == 0:
        return
    if isinstance(owner, dict):
        inner = list(owner.values())
    elif isinstance(owner, list | tuple):
        inner = list(owner)
    else:
        inner = list(getattr(owner, "__dict__", {}).values())
    for value in inner:
        yield from modules_of(value, depth - 1)


def _random_states() -> dict[str, bytes]:
    """The state of each global random generator."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's": torch.random.get_rng_state().numpy().tobytes(),
        "numpy's": repr((kind, np.asarray(keys).tolist(), rest)).encode(),
        "Python's": repr(random.getstate()).encode(),
    }


def unmoved(action: Callable[[], Any]) -> None:
    """Run an action and see that it drew from no global random generator.

    Raises:
        Failed: it did.
    """
    before = _random_states()
    action()
    after = _random_states()
    moved = {name: state != after[name] for name, state in before.items()}
    names = [name for name, yes in moved.items() if yes]
    message = f"it draws from {' and '.join(names)} global random generator. Use a generator of its own, with a seed."
    expect(not names, message)


__all__ = ["modules_of", "smooth_clips", "unmoved"]
