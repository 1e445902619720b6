"""Processes: whether the ones started are the ones asked for, and starting them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from vader.errors import LaunchError


def started() -> int | None:
    """How many processes a launcher says it has started; None when no launcher speaks."""
    size = os.environ.get("WORLD_SIZE")
    return int(size) if size else None


def require_processes(asked: int | None) -> None:
    """Check the number of processes before anything is loaded.

    Raises:
        LaunchError: it is not the number asked for. accelerate's launcher starts a single process on CPU whatever
            number it is given, and says nothing.
    """
    world = started()
    if asked is not None and (world or 1) != asked:
        raise LaunchError(
            f"train.processes asks for {asked} processes, but {world or 1} started. "
            f"Use 'vader train SPEC --processes {asked}', or a launcher that starts {asked}."
        )
    if world is None and "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        raise LaunchError(
            "accelerate launch was asked for more than one process, but started one (as it does on CPU). "
            "Use 'vader train SPEC --processes N', or 'torchrun --nproc-per-node N -m vader train SPEC'."
        )


def require_world(joined: int) -> None:
    """Check that the processes that a launcher started have found each other.

    Raises:
        LaunchError: they have not, and each would train alone.
    """
    world = started() or 1
    if joined != world:
        raise LaunchError(
            f"the launcher started {world} processes, but {joined} joined the run. "
            "Set train.device to the device they share, or start one process."
        )


def relaunch(arguments: Sequence[str], processes: int, *, cpu: bool) -> int:
    """Run ``vader`` again with these arguments in several processes, and wait.

    On GPUs through ``accelerate launch``; on CPU through torch's own launcher, which accelerate's leaves out there.

    Returns:
        The exit code.
    """
    if cpu:
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    else:
        launcher = [
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_machines",
            "1",
            "--num_processes",
            str(processes),
        ]
    command = [sys.executable, "-m", *launcher, "-m", "vader", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    process = subprocess.Popen(command, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the children get the signal too, save, and end by themselves
