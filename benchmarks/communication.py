"""What two processes send each other in an optimizer step, and the share of the step's time that goes to it.

``python benchmarks/communication.py`` trains a small Wan (random weights, CPU, gloo over the loopback interface) in two
processes and prints what DistributedDataParallel has measured in the first one's backward passes: the time from the
first gradient that is sent until all are averaged, and how much of it lay behind the rest of the backward pass. Waiting
for the other process, whose step may be longer, is part of it; so as many bytes are averaged alone, too. It wants two
idle cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

import vader
from vader.runs import metrics_file
from vader.runs.engine import Engine
from vader_diffusers import tiny

STEPS, WARM, ALONE = 10, 2, 50
SIZES = {"num_layers": 8, "num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512}
RANK = 16


class Brightness:
    """Mean of all pixels."""

    differentiable: ClassVar[bool] = True

    def score(self, frames: Tensor, prompts: Sequence[vader.Prompt]) -> Tensor:
        """``(b f 3 h w)`` in [0, 1] -> ``(b,)``."""
        return frames.mean(dim=(1, 2, 3, 4))


def spec(folder: Path) -> dict[str, Any]:
    """Ten denoising steps with guidance, the last of them with gradient."""
    return {
        "backbone": {"name": "wan", "options": {"weights": str(folder / "weights")}, "adapter": {"rank": RANK}},
        "prompts": {"name": "list", "options": {"prompts": ["a fox", "a boat"]}},
        "video": {"frames": 5, "height": 128, "width": 128, "fps": 8},
        "sampler": {"steps": 10, "guidance_scale": 3.0},
        "rewards": [{"name": f"{Path(__file__).resolve()}:Brightness", "label": "brightness"}],
        "gradient": {"mode": "last"},
        "train": {"steps": STEPS, "device": "cpu", "checkpoint_every": STEPS},
        "validation": {"clips": 0},
        "output": str(folder / "run"),
    }


def worker(folder: Path) -> None:
    """One of the two processes; the first prints."""
    torch.set_num_threads(1)
    prepared: list[Any] = []
    prepare = Engine.prepare

    def note(engine: Engine, denoiser: Any, optimizer: Any) -> Any:
        made = prepare(engine, denoiser, optimizer)
        prepared.append(made[0])
        return made

    Engine.prepare = note  # type: ignore[method-assign]
    vader.train(spec(folder), trust_code=True)
    data = prepared[0]._get_ddp_logging_data()
    lines = metrics_file.read(folder / "run" / "metrics.jsonl")[WARM:]
    sent = int(lines[0]["communication/gradient_bytes"])
    alone = []
    for _ in range(ALONE):
        distributed.barrier()
        begun = time.perf_counter()
        distributed.all_reduce(torch.zeros(sent // 4))
        alone.append(time.perf_counter() - begun)
    if distributed.get_rank() != 0:
        return
    step, backward = (median(float(line[f"time/{name}"]) for line in lines) for name in ("step", "backward"))
    averaging, hidden = (
        data[f"avg_backward_{name}_time"] / 1e9 for name in ("comm", "compute_comm_overlap")
    )  # nanoseconds
    for what, seconds in (
        ("optimizer step", step),
        ("backward", backward),
        ("averaging gradients, waiting included", averaging),
        ("of it behind the backward pass", hidden),
        ("averaging as many bytes alone", median(alone)),
    ):
        print(f"{what:<40}{seconds * 1e3:10.1f} ms{100 * seconds / step:8.1f} % of the step")
    print(f"{'bytes of gradients':<40}{sent:10,}")


def main() -> None:
    """Start both."""
    if "RANK" in os.environ:
        return worker(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        tiny.write(Path(folder) / "weights", 0, "wan", **SIZES)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([sys.executable, *launcher, str(Path(__file__).resolve()), folder], check=True)


if __name__ == "__main__":
    main()
