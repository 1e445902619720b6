"""Whether this machine can do what a spec asks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from vader.installing import install_command
from vader.spec import RunSpec
from vader.spec.consistency import Finding


def machine_fits(spec: RunSpec) -> Iterator[Finding]:
    """It has the device, the precision, the optimizer and the trackers."""
    device, precision = spec.train.device, spec.train.mixed_precision
    if not _there(device):
        yield "train.device", f"{device!r} is not available on this machine. Use auto or cpu."
    if precision == "fp16" and on_cpu(spec):
        yield "train.mixed_precision", "fp16 needs a GPU; this run is on the CPU. Use bf16 or no."
    if spec.train.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        message = "'adamw_8bit' needs bitsandbytes, which is not installed."
        yield "train.optimizer", f"{message} Run `{install_command('vader-core[quantize]')}`, or use adamw."
    if spec.train.sharding.offload == "cpu" and on_cpu(spec):
        yield "train.sharding.offload", "this run is on the CPU: there is nothing to take weights away from. Use none."
    for index, name in enumerate(spec.trackers):
        if find_spec(name) is None:
            yield f"trackers.{index}", f"{name!r} is not installed. Run `{install_command(f'vader-core[{name}]')}`."


def _there(device: str) -> bool:
    if device not in ("cuda", "mps"):
        return True
    import torch

    return bool(torch.backends.mps.is_available()) if device == "mps" else torch.cuda.is_available()


def on_cpu(spec: RunSpec) -> bool:
    """Whether a run is on the CPU, because it asks for that or because there is nothing else."""
    return spec.train.device == "cpu" or (spec.train.device == "auto" and not (_there("cuda") or _there("mps")))
