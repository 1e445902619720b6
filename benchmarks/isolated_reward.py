"""What another process costs a reward: seconds a call on 8 frames of 320x512, here and isolated, taking turns.

``python benchmarks/isolated_reward.py [PYTHON]``: PYTHON is the other interpreter, by default this one. The reward is
cheap on purpose, so that the difference is the overhead: frames over, scores back and, with gradient, the
gradient back. Also prints the largest difference of scores and gradients between the two.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS, SHAPE = 15, (1, 8, 3, 320, 512)


class Squares:
    """Mean square of the differences of neighbouring pixels."""

    def score(self, frames: Tensor, prompts: Sequence[Any]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return -(frames.diff(dim=-1) ** 2).mean(dim=(1, 2, 3, 4))


def call(reward: Any, frames: Tensor, gradient: bool) -> tuple[float, Tensor, Tensor | None]:
    """Seconds, scores and gradient of one call."""
    import vader

    leaf = frames.clone().requires_grad_(gradient)
    start = time.perf_counter()
    scores = reward.score(leaf, [vader.Prompt("")])
    if gradient:
        scores.sum().backward()
    return time.perf_counter() - start, scores.detach(), leaf.grad


def main() -> None:
    """Measure and print a table."""
    import torch

    from vader import Runtime
    from vader.plugins.isolation.component import Isolated

    torch.set_num_threads(1)
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    settings = {"python": python, "timeout": 600.0, "startup_timeout": 600.0}
    name = f"{Path(__file__).resolve()}:Squares"
    isolated = Isolated(settings, name, "squares", {}).component()(Runtime(torch.device("cpu"), torch.float32))
    rewards = {"here": Squares(), "isolated": isolated}
    frames = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    print(f"{'8 frames of 320x512':<24}{'here':>10}{'isolated':>10}{'overhead':>10}")
    for gradient in (False, True):
        times: dict[str, list[float]] = {place: [] for place in rewards}
        results: dict[str, Any] = {}
        for _ in range(ROUNDS):
            for place, reward in rewards.items():
                seconds, *results[place] = call(reward, frames, gradient)
                times[place].append(seconds)
        here, there = (median(times[place][2:]) for place in rewards)
        what = "score and gradient" if gradient else "score"
        print(f"{what:<24}{here * 1e3:8.1f}ms{there * 1e3:8.1f}ms{(there - here) * 1e3:8.1f}ms")
        pairs = zip(results["here"], results["isolated"], strict=True)
        worst = [float((a - b).abs().max()) for a, b in pairs if a is not None]
        print(f"  largest difference: {', '.join(f'{value:.1e}' for value in worst)}")


if __name__ == "__main__":
    main()
