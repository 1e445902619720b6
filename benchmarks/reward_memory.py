"""How much memory the largest rewards need at their real sizes, by the accounting of ``vader estimate``.

Run it with ``python benchmarks/reward_memory.py``; it takes a minute, and needs neither weights nor a GPU.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from vader.estimation.components import dress, meta_init
from vader.estimation.fake_device import STAGE, Machine
from vader.estimation.memory_tracker import LiveBytes, storages
from vader.plugins import registry
from vader.protocols import Prompt, Runtime, Video
from vader.resolve.components import ResolvedComponent
from vader.resolve.networks import networks

FPS = 8.0
CASES = (
    ("videoreward", {"fps": FPS}, 16, (480, 832)),
    ("hpsv3", {}, 8, (480, 832)),
    ("hpsv3", {"chunk": 8}, 8, (480, 832)),
    ("imagereward", {}, 8, (480, 832)),
    ("vlm_question", {}, 16, (480, 832)),
)
"""Reward, options, frames, height and width. At ``fps: 8`` every one of sixteen frames is looked at."""


def peak(name: str, options: Mapping[str, Any], frames: int, size: tuple[int, int]) -> tuple[float, float]:
    """The most live bytes while one clip is judged and its gradient made, and those that stay between uses; in GB."""
    component = registry.load("reward", name)
    part = ResolvedComponent("reward", name, component, component.Options(**options))
    machine, live = Machine(torch.device("cuda")), LiveBytes()
    reward, homes = meta_init(part, Runtime(machine.device, torch.bfloat16), video=Video(frames, *size, FPS))
    dress(machine, reward, homes)
    held = [tensor for module in networks(reward).values() for tensor in storages(module) if tensor.device == STAGE]
    with machine.running(), live:
        live.hold(held, "weights")
        clip = torch.zeros(1, frames, 3, *size, device=STAGE).requires_grad_()
        given = reward.score(clip, [Prompt("a red fox runs through fresh snow")])
        (given["score"] if isinstance(given, Mapping) else given).sum().backward()
    seen = live.account()
    return seen.peak.total / 1e9, seen.most.get("weights", 0) / 1e9


def main() -> None:
    """Print a row for every reward and every way of holding it."""
    warnings.simplefilter("ignore")
    print("| reward | frames | checkpointing | offload | peak, GB | between uses, GB |")
    print("|---|---|---|---|---|---|")
    for (name, options, frames, size), recompute, away in itertools.product(CASES, (False, True), (False, True)):
        start = time.perf_counter()
        most, weights = peak(name, {**options, "checkpointing": recompute, "offload": away}, frames, size)
        shown = ", ".join([f"`{name}`", *(f"{key} {value}" for key, value in options.items())])
        row = (shown, frames, "yes" if recompute else "no", "yes" if away else "no", f"{most:.1f}", f"{weights:.1f}")
        print("|", " | ".join(map(str, row)), "|", flush=True)
        assert time.perf_counter() - start < 300


if __name__ == "__main__":
    main()
