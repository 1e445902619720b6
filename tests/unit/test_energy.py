"""Energy from counters of a made-up machine: RAPL's zones with wrap-around, NVML by UUID, counters that fail."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vader.runs.energy import EnergyMeter, counter_of

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 1)
RANGE = 262_143_328_850


def write_zone(folder: Path, name: str, said: str, microjoules: int) -> Path:
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{said}\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    return zone


def test_packages_and_memory_are_added_up_and_counters_begin_again(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl").mkdir()
    one = write_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    two = write_zone(tmp_path, "intel-rapl:1", "package-1", RANGE - 1_000_000)
    memory = write_zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    part = write_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    more = write_zone(tmp_path, "intel-rapl:2", "psys", 0)
    meter = EnergyMeter(counter_of(CPU, powercap=tmp_path))
    assert meter.read() == 0
    for zone, value in ((one, 8_000_000), (two, 500_000), (memory, 250_000), (part, 10**9), (more, 10**9)):
        (zone / "energy_uj").write_text(str(value))
    assert meter.read() == pytest.approx(3.0 + 1.5 + 0.25)
    (two / "energy_uj").write_text("100000")  # a whole turn
    assert meter.read() == pytest.approx((RANGE - 400_000) / 1e6)
    assert meter.read() == 0


def test_a_machine_without_counters_tells_nothing(tmp_path: Path) -> None:
    assert counter_of(CPU, powercap=tmp_path / "none") is None
    assert math.isnan(EnergyMeter(None).read())
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # as one that only root may read
    assert counter_of(CPU, powercap=tmp_path) is None


def test_processors_are_counted_by_one_process_of_a_machine(tmp_path: Path) -> None:
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meters = [EnergyMeter(counter_of(CPU, first=first, powercap=tmp_path)) for first in (True, False)]
    (zone / "energy_uj").write_text("2000000")
    assert [meter.read() for meter in meters] == [2.0, 0.0]


class Nvml(SimpleNamespace):
    """``pynvml`` of a machine with two GPUs, which CUDA numbers the other way round."""

    class NVMLError(Exception):
        """As pynvml's."""

    millijoules: list[int]

    def nvmlInit(self) -> None:
        """As pynvml's."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return ["GPU-first", "GPU-second"].index(uuid)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        value = self.millijoules[handle]
        if value < 0:
            raise self.NVMLError
        return value


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    made = Nvml(millijoules=[1_000, 2_000])
    monkeypatch.setitem(sys.modules, "pynvml", made)
    uuids = {CUDA: "first"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuids[device]))
    return made


def test_a_gpu_is_found_by_its_uuid(nvml: Nvml) -> None:
    meter = EnergyMeter(counter_of(CUDA))
    nvml.millijoules = [3_500, 9_000]
    assert meter.read() == 2.5


def test_a_counter_that_fails_is_not_asked_again(nvml: Nvml) -> None:
    meter = EnergyMeter(counter_of(CUDA))
    nvml.millijoules = [-1, 0]
    assert math.isnan(meter.read())
    nvml.millijoules = [5_000, 0]
    assert math.isnan(meter.read())
    assert math.isnan(meter.read())


def test_a_gpu_that_does_not_count_tells_nothing(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.millijoules = [-1, 0]
    assert counter_of(CUDA) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert counter_of(CUDA) is None
