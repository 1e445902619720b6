"""Advantages: rewards made comparable between prompts (DDPO, arXiv 2305.13301, appendix D.1)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any, Literal

_EPSILON = 1e-6


class PromptStatistics:
    """Mean and standard deviation of the last rewards of each prompt.

    A prompt seen fewer than ``min_count`` times is judged by the statistics of the round it is in.

    Args:
        buffer_size: rewards remembered for each prompt.
        min_count: how many make statistics, at least 2.
    """

    def __init__(self, buffer_size: int, min_count: int) -> None:
        self._size, self._min_count = buffer_size, min_count
        self._rewards: dict[str, list[float]] = {}

    def remember(self, prompts: Sequence[str], rewards: Sequence[float]) -> None:
        """Take up a round's rewards; one that is not finite would spoil its prompt for good and is left out."""
        for prompt, reward in zip(prompts, rewards, strict=True):
            if not math.isfinite(reward):
                continue
            self._rewards[prompt] = [*self._rewards.get(prompt, []), reward][-self._size :]

    def advantages(self, prompts: Sequence[str], rewards: Sequence[float], whole_round: Sequence[float]) -> list[float]:
        """``(reward - mean) / standard deviation``, each by its prompt's statistics.

        Args:
            prompts: of the clips wanted.
            rewards: of the same clips.
            whole_round: the rewards of every clip of the round, on all processes.
        """
        found = []
        for prompt, reward in zip(prompts, rewards, strict=True):
            known = self._rewards.get(prompt, [])
            sample = known if len(known) >= self._min_count else whole_round
            found.append((reward - fmean(sample)) / (pstdev(sample) + _EPSILON))
        return found

    def state_dict(self) -> dict[str, list[float]]:
        """The rewards remembered, by prompt."""
        return {prompt: list(rewards) for prompt, rewards in self._rewards.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take up remembered rewards."""
        self._rewards = {prompt: list(rewards) for prompt, rewards in state.items()}


Spread = Literal["prompt", "round"]
"""Whose standard deviation divides an advantage: that of its prompt's rewards, or of all in the round."""


def group_advantages(
    prompts: Sequence[Sequence[str]],
    rewards: Sequence[Sequence[float]],
    gather: Callable[[list[Any]], list[Any]],
    spread: Spread,
) -> list[list[float]]:
    """``(reward - mean) / standard deviation`` within the clips of a prompt (GRPO, arXiv 2402.03300, section 4.1.1).

    A prompt's clips are compared wherever they were made: in any batch, on any process. Rewards that are not finite
    count for no other clip.

    Args:
        prompts: of this process's clips, batch by batch.
        rewards: of the same clips.
        gather: see :class:`vader.methods.context.RolloutContext`; every process must call this.
        spread: whose standard deviation.

    Returns:
        Of the same clips, batch by batch.
    """
    mine = [pair for texts, values in zip(prompts, rewards, strict=True) for pair in zip(texts, values, strict=True)]
    found: dict[str, list[float]] = defaultdict(list)
    for prompt, reward in gather(mine):
        if math.isfinite(reward):
            found[prompt].append(reward)
    everyone = [reward for group in found.values() for reward in group]

    def advantage(prompt: str, reward: float) -> float:
        group = found[prompt]
        if not group:
            return math.nan
        return (reward - fmean(group)) / (pstdev(group if spread == "prompt" else everyone) + _EPSILON)

    return [
        [advantage(prompt, reward) for prompt, reward in zip(texts, values, strict=True)]
        for texts, values in zip(prompts, rewards, strict=True)
    ]
