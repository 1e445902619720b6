"""Asking a reward: what it raises, gives and does to its input is judged here, and an error names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vader.errors import ComponentError, blame
from vader.protocols import (
    SCORE,
    Conditioning,
    LatentReward,
    Prompt,
    Reward,
    capability,
    score_and_parts,
)
from vader.shapes import Frames, Latents, Scores


def ask_reward(key: str, reward: Reward, frames: Frames, prompts: Sequence[Prompt]) -> Mapping[str, Scores]:
    """Scores ``(b,)`` by name, the one that counts as :data:`vader.protocols.SCORE`.

    Args:
        key: what the reward is called.
        reward: is asked.
        frames: ``(b f c h w)`` in [0, 1].
        prompts: of the ``b`` clips; the reward gets copies, with metadata of its own.

    Raises:
        ComponentError: it raised, gave no such scores, none with a gradient where one is needed, or changed the frames.
    """
    before = _state(frames)
    own = tuple(replace(prompt, metadata=_copied(prompt.metadata)) for prompt in prompts)
    with blame(f"reward {key!r}"):
        given = reward.score(frames, own)
    _require_unchanged(key, "frames", before, frames)
    return _judged(key, reward, given, frames)


def ask_latent_reward(
    key: str, reward: LatentReward, latents: Latents, timestep: Tensor, conditioning: Conditioning
) -> Scores:
    """The scores ``(b,)`` of a reward that sees latents; see :func:`ask_reward`.

    Args:
        key: what the reward is called.
        reward: is asked.
        latents: ``(b ...)``.
        timestep: ``(b,)``, theirs.
        conditioning: of the ``b`` prompts.
    """
    branches = [*conditioning.positive.values(), *(conditioning.negative or {}).values()]
    seen = [("latents", latents), ("timestep", timestep), *(("conditioning", tensor) for tensor in branches)]
    before = [_state(tensor) for _, tensor in seen]
    with blame(f"reward {key!r}"):
        given = reward.score(latents, timestep, conditioning.map(lambda tensor: tensor))
    for (what, tensor), state in zip(seen, before, strict=True):
        _require_unchanged(key, what, state, tensor)
    return _judged(key, reward, given, latents)[SCORE]


def _copied(value: Any) -> Any:
    """Metadata in containers and tensors of its own; what else it holds is the same."""
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    if isinstance(value, list | set):
        return type(value)(map(_copied, value))
    if type(value) is tuple:
        return tuple(map(_copied, value))
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray | bytearray) else value


def _judged(key: str, reward: Any, given: Any, seen: Tensor) -> Mapping[str, Scores]:
    try:
        score, parts = score_and_parts(given, len(seen))
    except ValueError as error:
        raise ComponentError(f"reward {key!r} {error}") from error
    where = next((f"scores {name!r}" for name, part in parts.items() if part.device != seen.device), None)
    where = "scores" if score.device != seen.device else where
    if where is not None:
        found = {str(one.device) for one in (score, *parts.values())} - {str(seen.device)}
        raise ComponentError(
            f"reward {key!r} gave {where} on {', '.join(found)}; expected {seen.device}, where the clips are."
        )
    needed = torch.is_grad_enabled() and seen.requires_grad and capability(reward, "differentiable")
    if needed and not score.requires_grad:
        raise ComponentError(
            f"reward {key!r} gave scores without a gradient, though it says differentiable = True. Compute them with "
            "torch, without detach, no_grad, numpy or item(); or declare differentiable = False."
        )
    return {SCORE: score, **parts}


def _state(seen: Tensor) -> tuple[int, Tensor | None]:
    """What tells that a tensor was changed in place: its count of changes and, where numpy may share its memory, its
    sum. No copy is made."""
    version = 0 if seen.is_inference() else seen._version
    shared = seen.device.type == "cpu" and type(seen) is Tensor
    return version, seen.detach().sum(dtype=torch.float64) if shared else None


def _require_unchanged(key: str, what: str, before: tuple[int, Tensor | None], seen: Tensor) -> None:
    """A reward has left what it saw as it was: others see it after it, and it is shown.

    Raises:
        ComponentError: it has not.
    """
    version, total = _state(seen)
    same = version == before[0]
    if same and total is not None and before[1] is not None:
        same = torch.equal(total, before[1]) or bool(total.isnan())
    if not same:
        raise ComponentError(
            f"reward {key!r} changed the {what} that it was given, in place. Others see the same {what}; work on a new "
            "tensor (x = x * 2, not x *= 2)."
        )
