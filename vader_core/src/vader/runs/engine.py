"""The accelerator of a run: device, precision, processes."""

from __future__ import annotations

import atexit
import functools
import importlib.util
from typing import Any

import torch
from accelerate import Accelerator, AutocastKwargs, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, PartialState

from vader.errors import LaunchError, Problem, SpecError
from vader.runs.launch import require_world, started
from vader.spec import RunSpec

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Mixed precision -> dtype of the frozen weights."""


def machine_problems(spec: RunSpec) -> list[Problem]:
    """What this machine cannot do for a spec: a device or precision it lacks, a tracker not installed."""
    found: list[Problem] = []
    device, precision = spec.train.device, spec.train.mixed_precision
    if not _there(device):
        found.append(Problem("train.device", f"{device!r} is not available on this machine. Use auto or cpu."))
    if precision == "fp16" and on_cpu(spec):
        found.append(Problem("train.mixed_precision", "fp16 needs a GPU; this run is on the CPU. Use bf16 or no."))
    for index, name in enumerate(spec.trackers):
        if importlib.util.find_spec(name) is None:
            message = f"{name!r} is not installed. Run 'pip install vader-core[{name}]'."
            found.append(Problem(f"trackers.{index}", message))
    return found


def _there(device: str) -> bool:
    if device == "mps":
        return bool(torch.backends.mps.is_available())
    return device != "cuda" or torch.cuda.is_available()


def on_cpu(spec: RunSpec) -> bool:
    """Whether a run is on the CPU, because it asks for that or because there is nothing else."""
    return spec.train.device == "cpu" or (spec.train.device == "auto" and not (_there("cuda") or _there("mps")))


def make_accelerator(spec: RunSpec) -> Accelerator:
    """accelerate's object for a run.

    Autocast is off: frozen weights have the run's precision and each library keeps in float32 what it must, so that a
    clip is computed in training as it is in inference.

    Raises:
        SpecError: this machine cannot do what the spec asks.
    """
    problems = machine_problems(spec)
    if problems:
        raise SpecError(problems)
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
