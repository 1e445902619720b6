"""What an optimizer step costs by a reward in latent space and by one that looks at pixels: operations, time, bytes.

``python benchmarks/latent_reward.py REWARD``, REWARD being the folder that
``vader reward train examples/shapes_latent_reward.yaml`` has written. Both step on the embedded model with the same
adapter, batch and sampler. Steps take turns in one process, so that a noisy machine blurs both alike; time is the
processor's. Bytes are those of ``vader estimate`` at the worst moment, weights included.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vader.estimation import estimate
from vader.resolve.validate import resolve
from vader.runs.assembly import assemble
from vader.runs.engine import Engine
from vader.runs.train_step import Counters, TrainStep

ROUNDS = 3
SHARED = {
    "backbone": {"name": "shapes", "adapter": {"rank": 16}},
    "sampler": {"steps": 4, "guidance_scale": 1.0},
    "prompts": {"name": "shapes"},
    "train": {"steps": 100, "batch_size": 16, "learning_rate": 5e-4, "device": "cpu"},
    "validation": {"clips": 0},
}


def cases(reward: str) -> dict[str, dict[str, Any]]:
    """Name -> spec."""
    pixels = {**SHARED, "rewards": ["shapes_alignment"]}
    latent = {**SHARED, "rewards": [{"name": "latent", "options": {"weights": reward}}]}
    return {
        "pixels, last step": {**pixels, "gradient": {"mode": "last"}},
        "pixels, two steps": {**pixels, "gradient": {"mode": "tail", "k": 2}},
        "latents, last step": {**latent, "gradient": {"mode": "last"}},
        "latents, PRFL": {**latent, "method": "prfl"},
    }


def stepper(spec: dict[str, Any]) -> Callable[[int], object]:
    """The trainer's optimizer step of a spec."""
    plan = resolve(spec)
    engine = Engine(plan.spec)
    live = assemble(plan, engine, lambda size: None)
    step = TrainStep(
        plan.spec.train, engine, live.denoiser, live.optimizer, live.parameters, live.method, plan.prompts, live.encode,
        Counters(), live.context.timer, live.context.objective,
    )  # fmt: skip
    return step.step


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    specs = cases(sys.argv[1])
    steps = {name: stepper(spec) for name, spec in specs.items()}
    operations: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in specs}
    for round_ in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.process_time()
            if round_ == 0:
                with FlopCounterMode(display=False) as counted:
                    for index in range(8):  # PRFL draws its step: the mean over several
                        step(index)
                operations[name] = counted.get_total_flops() / 8
            else:
                for index in range(4):
                    step(8 + 4 * round_ + index)
                seconds[name].append((time.process_time() - start) / 4)
    base = "pixels, last step"
    ratio = {name: [a / b for a, b in zip(seconds[name], seconds[base], strict=True)] for name in specs}
    print("step                 GFLOP   CPU s   time / pixels, last step   MB at the worst moment", flush=True)
    for name, spec in specs.items():
        size = estimate(spec).training.peak.total / 1e6
        spent, share = statistics.median(seconds[name]), statistics.median(ratio[name])
        print(f"{name:<19} {operations[name] / 1e9:6.1f}  {spent:6.3f}  {share:25.2f}  {size:23.1f}", flush=True)


if __name__ == "__main__":
    main()
