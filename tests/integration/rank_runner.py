"""Runs one after the other in one process of several, their gradients written down before every optimizer step.

Started by ``test_processes.py`` under a launcher: ``-m tests.integration.rank_runner RUNS.json FOLDER``. The file
holds a list of ``{"spec": ..., "resume": ..., "name": ...}``; rank r writes ``FOLDER/NAME-r.pt``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import vader


def gradients(spec: dict[str, Any], *, resume: bool = False) -> list[list[Tensor]]:
    """Train; the gradient of every parameter at every optimizer step, as the optimizer gets it."""
    seen: list[list[Tensor]] = []

    def note(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        seen.append([torch.zeros(()) if p.grad is None else p.grad.clone() for p in parameters])

    handle = register_optimizer_step_pre_hook(note)
    try:
        vader.train(spec, resume=resume)
    finally:
        handle.remove()
    return seen


def main(made: Callable[..., Any]) -> None:
    """All runs of the file; what ``made`` gives of each is written."""
    torch.set_num_threads(1)
    runs, folder, rank = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), os.environ["RANK"]
    for run in runs:
        torch.save(made(run["spec"], resume=run["resume"]), folder / f"{run['name']}-{rank}.pt")


if __name__ == "__main__":
    main(gradients)
