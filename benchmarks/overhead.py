"""Time of an optimizer step outside model calls: ``python -m benchmarks.overhead [--rounds N]``.

Model calls are those of the denoiser, the decoder, the reward and their backward pass. What is left is the project's
own: guidance, sampler, noise, conditioning, merging of the adapter, clipping, the optimizer and what is logged.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median, quantiles
from typing import Any

import torch
from benchmarks.peers import worlds

CASES = {"embedded model": "shapes", "tiny random Wan": "wan"}


class Inside:
    """Seconds inside model calls, the outermost ones."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._deep = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._deep:
            yield
            return
        self._deep, start = True, time.perf_counter()
        try:
            yield
        finally:
            self._deep = False
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def watched(function: Callable[..., Any], inside: Inside, name: str) -> Callable[..., Any]:
    """The function, its time noted."""

    def call(*arguments: Any, **named: Any) -> Any:
        with inside(name):
            return function(*arguments, **named)

    return call


def measure(family: str, rounds: int) -> tuple[list[float], dict[str, float]]:
    """Shares of time outside model calls, a step each, and seconds of one step by part."""
    world = worlds.build(family, steps=25, k=1, blocks=False, clips=4, learning_rate=1e-3)
    live, inside = world.live, Inside()
    (reward,) = live.context.rewards.values()
    engine: Any = world.step._engine
    for owner, method, name in (
        (live.denoiser, "forward", "denoiser"),
        (live.backbone, "decode_for_reward", "decoder"),
        (reward, "score", "reward"),
        (engine, "backward", "backward"),
    ):
        setattr(owner, method, watched(getattr(owner, method), inside, name))
    shares: list[float] = []
    parts: dict[str, float] = {}
    for turn in range(rounds + 2):
        inside.seconds.clear()
        start = time.perf_counter()
        world.step.step(turn)
        spent = time.perf_counter() - start
        if turn >= 2:
            shares.append(1 - sum(inside.seconds.values()) / spent)
            parts = {**inside.seconds, "outside": spent - sum(inside.seconds.values())}
    return shares, parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description="Time outside model calls.")
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for title, family in CASES.items():
        shares, parts = measure(family, rounds)
        low, _, high = quantiles(shares, n=4)
        told = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in parts.items())
        print(f"{title}: {median(shares):.2%} outside model calls (quartiles {low:.2%} to {high:.2%}); {told}")


if __name__ == "__main__":
    main()
