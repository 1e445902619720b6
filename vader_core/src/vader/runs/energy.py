"""The energy that a device takes, where it tells: NVIDIA's GPUs by NVML, processors by RAPL.

It is all that the device takes, whoever works on it and while it waits: on a machine that others use too it is more
than the run's own. Of a run on a GPU it is the GPU's alone, without processor and memory of the host.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

Counter = Callable[[], float]
"""Joules since some moment, the same at each call."""
POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules between two readings. A counter that fails is not asked again.

    Args:
        counter: of the device; None where it has none.
    """

    def __init__(self, counter: Counter | None) -> None:
        self._counter, self._before = counter, math.nan
        self.read()

    def read(self) -> float:
        """Joules since the last reading; NaN where the device does not tell."""
        before, self._before = self._before, self._now()
        return self._before - before

    def _now(self) -> float:
        if self._counter is None:
            return math.nan
        try:
            return self._counter()
        except Exception:  # a driver's, whose errors are of its own kinds
            self._counter = None
            return math.nan


def counter_of(device: torch.device, *, first: bool = True, powercap: Path = POWERCAP) -> Counter | None:
    """The energy counter of a device; None where it has none, or this process may not read it.

    Args:
        device: of this process.
        first: whether this process is the first on its machine; processors are counted there alone, for all.
        powercap: folder of RAPL's zones.
    """
    try:
        if device.type == "cuda":
            return _nvml(device)
        if device.type == "cpu":
            return _rapl(powercap) if first else _nothing
    except Exception:  # no driver, no permission, a device that does not count
        return None
    return None


def _nothing() -> float:
    """For a process whose processors another one counts."""
    return 0.0


def _nvml(device: torch.device) -> Counter:
    """A GPU, found by its UUID, since torch and NVML number them differently.

    Source: ``nvmlDeviceGetTotalEnergyConsumption`` of NVML: millijoules since the driver was loaded, from Volta on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a package of the same name says that it is deprecated
        nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")

    def joules() -> float:
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

    joules()
    return joules


def _rapl(powercap: Path) -> Counter | None:
    """All processors of the machine, and their memory where it is counted.

    Source: Linux's powercap interface, ``intel-rapl``, which AMD's processors use too. Its zones of cores and graphics
    are part of the package's, and ``psys`` is more than all of them: they are left out.
    """
    found = [(zone, (zone / "name").read_text(encoding="ascii").strip()) for zone in powercap.glob("intel-rapl:*")]
    zones = [_Zone(zone) for zone, name in found if name.startswith("package") or name == "dram"]
    if not zones:
        return None

    def joules() -> float:
        return sum(zone.microjoules() for zone in zones) / 1e6

    joules()
    return joules


class _Zone:
    """A zone of RAPL, whose counter begins again at its range: 262 kJ as a rule, 22 minutes at 200 W.

    Of readings farther apart than that, whole turns are lost.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        self._last, self._turns = 0, 0

    def microjoules(self) -> int:
        """Since the counter's last beginning before the first call."""
        now = int(self._file.read_text(encoding="ascii"))
        self._turns += now < self._last
        self._last = now
        return now + self._turns * self._range
