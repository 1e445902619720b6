"""The accelerator of a run: device, precision, processes."""

from __future__ import annotations

import atexit
import functools
from typing import Any

import torch
from accelerate import Accelerator, AutocastKwargs, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState

from vader.errors import LaunchError
from vader.resolve.machine import on_cpu
from vader.runs.launch import require_world, started
from vader.spec import RunSpec

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Mixed precision -> dtype of the frozen weights."""


def make_accelerator(spec: RunSpec) -> Accelerator:
    """accelerate's object for a run that :func:`vader.resolve.machine.machine_fits` lets be.

    Autocast is off: frozen weights have the run's precision and each library keeps in float32 what it must, so that a
    clip is computed in training as it is in inference.
    """
    AcceleratorState._reset_state()  # a process may make several runs, each with a precision of its own
    arguments: dict[str, Any] = {}
    if spec.trackers:
        arguments = {"log_with": list(spec.trackers), "project_dir": spec.output}
    arguments["kwargs_handlers"] = [
        DistributedDataParallelKwargs(broadcast_buffers=False),
        AutocastKwargs(enabled=False),
    ]
    try:
        accelerator = Accelerator(mixed_precision=spec.train.mixed_precision, cpu=on_cpu(spec), **arguments)
    except ValueError as error:
        raise LaunchError(f"accelerate cannot join {started() or 1} processes: {error}.") from error
    require_world(accelerator.num_processes)
    _leave_at_exit()
    return accelerator


@functools.cache
def _leave_at_exit() -> None:
    """The processes' group lasts as long as they do: torch cannot join a second, and a start may make several runs."""
    atexit.register(lambda: PartialState().destroy_process_group())


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on the device, or resident in this process on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource
    import sys

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
