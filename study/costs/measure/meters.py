"""Energy meters: counters of joules behind one protocol, one class for each vendor.

The difference of two readings is the energy consumed between them; one reading alone means nothing. Queued work that a
device has not done yet is not in the counter: synchronise first, then read.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Literal, Protocol

import torch

from study.errors import UserError

Run = Callable[[], object]
MeterSource = Literal["nvml", "rapl"]

PERIODS_OF_A_WINDOW = 5
"""Updates of the counter in a window, at least. A window cuts off part of its first and of its last update."""
READ_EVERY_SECONDS = 30.0
"""Longest time between two readings in a window, so that each wrap-around of a counter is seen."""
WITHOUT = "measure without a meter (predictive-exit profile --no-meter): energies then come from a model"
"""End of each error message about a meter that cannot be read."""
POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")


class Meter(Protocol):
    """A counter of the energy that one device has consumed."""

    source: MeterSource
    """The ``energy_source`` of energies that this meter measures."""
    device: str
    """Name of the device."""
    driver: str | None
    """Version of the software that offers the counter."""
    period: float
    """Longest known time in seconds between two updates of the counter."""

    def read(self) -> float:
        """Joules since a fixed moment; never less than the previous reading."""

    def describe(self) -> dict[str, object]:
        """Facts to record beside a measurement: device, driver, present clocks, limits; JSON values only."""


class NoMeterError(UserError):
    """The device has no readable energy counter."""


class NvmlMeter:
    """The counter of one NVIDIA GPU (Volta or newer): millijoules of the whole board since the driver was loaded.

    Args:
        index: the device as torch numbers it (``cuda:<index>``).

    Raises:
        NoMeterError: this GPU, or this slice of a GPU, has no counter.
    """

    source: MeterSource = "nvml"
    # NVIDIA documents no period. Periods between 20 and 100 ms have been observed, depending on the GPU.
    period = 0.1

    def __init__(self, index: int) -> None:
        import pynvml  # here, because a machine without a GPU measures without NVML

        self._nvml = pynvml
        self.device = torch.cuda.get_device_name(index)
        # NVML numbers all GPUs of the machine in the order of the bus. Torch numbers the GPUs in CUDA_VISIBLE_DEVICES
        # in CUDA's order (fastest first). An index may mean another board there; a UUID means the same board in both.
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.read()  # a GPU older than Volta refuses the call here
            self.driver: str | None = str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError as error:
            # A slice of a partitioned GPU (MIG) fails here too: the counter of the board counts all slices.
            raise NoMeterError(f"{self.device} (cuda:{index}) has no energy counter to read: {error}") from None

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def describe(self) -> dict[str, object]:
        """Device, driver, power limit, present clocks and temperature, as far as this GPU reports them."""
        nvml, handle = self._nvml, self._handle
        facts: dict[str, object] = {"source": self.source, "device": self.device, "driver": self.driver}
        queries: dict[str, Callable[[], object]] = {
            "power_limit_watts": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "graphics_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_GRAPHICS),
            "sm_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature_celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        }
        for name, query in queries.items():
            with suppress(nvml.NVMLError):
                facts[name] = query()
        return facts | {"counter_period_seconds": self.period}


class RaplMeter:
    """The counters of a machine's CPU packages and their memory (Intel and AMD, Linux), summed.

    The counters count the work of the whole machine, other programs included. The zones of cores and graphics are parts
    of a package, and ``psys`` contains the packages: to add these zones would count joules twice. ``intel-rapl-mmio``
    offers the same packages a second time.

    A counter wraps around at ``max_energy_range_uj`` (often 262 kJ: after 22 minutes at 200 W). One wrap between two
    readings is detected; two wraps look like one. :func:`take_window` therefore reads every 30 seconds.

    Args:
        root: folder in which Linux shows the power zones.

    Raises:
        NoMeterError: there is no such counter.
        UserError: this user may not read the counters.
    """

    source: MeterSource = "rapl"
    period = 0.01  # counters move every millisecond; the factor of ten is a margin for slower machines

    def __init__(self, root: Path = POWERCAP) -> None:
        self.device = device_name(torch.device("cpu"))
        self.driver: str | None = f"{platform.system()} {platform.release()}"
        self._zones = _energy_zones(root)
        if not self._zones:
            raise NoMeterError(f"{self.device} has no energy counter to read: no CPU package in {root}")
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [_number(zone / "energy_uj") for zone in self._zones]
        self._microjoules = 0

    def read(self) -> float:
        """Joules since this meter was created."""
        for index, zone in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            gone = now - self._last[index]
            self._microjoules += gone if gone >= 0 else gone + self._ranges[index]
            self._last[index] = now
        return self._microjoules / 1e6

    def describe(self) -> dict[str, object]:
        """Device, kernel, the summed zones, and the long-term power limit of each zone that has one."""
        facts: dict[str, object] = {"source": self.source, "device": self.device, "driver": self.driver}
        facts["zones"] = [f"{zone.name} ({_text(zone / 'name')})" for zone in self._zones]
        limits = {}
        for zone in self._zones:
            with suppress(UserError):
                limits[zone.name] = _number(zone / "constraint_0_power_limit_uw") / 1e6
        if limits:
            facts["power_limit_watts"] = limits
        return facts | {"counter_period_seconds": self.period}


def find_meter(device: torch.device) -> Meter | None:
    """The meter of a device, or None if the device has no meter.

    Raises:
        UserError: there is a meter that cannot be read for a reason which the user can change.
    """
    with suppress(NoMeterError):
        # A ROCm build of torch calls AMD's GPUs "cuda" too; NVML does not know them.
        if device.type == "cuda" and torch.version.hip is None:
            return NvmlMeter(torch.cuda.current_device() if device.index is None else device.index)
        if device.type == "cpu":
            return RaplMeter(POWERCAP)
    return None


def take_window(
    meter: Meter,
    run: Run,
    *,
    what: str,
    at_least: float,
    call_seconds: float,
    least_calls: int = 1,
    synchronise: Callable[[], object],
    clock: Callable[[], float],
) -> tuple[float, float, int]:
    """Call ``run`` repeatedly between two readings of the meter.

    Args:
        what: name of the work in error messages.
        at_least: smallest length of the window in seconds.
        call_seconds: estimated seconds of one call. A wrong estimate makes the window longer; the result stays right.
        least_calls: smallest number of calls in the window.
        synchronise: waits until the device has done all queued work.

    Returns:
        ``(seconds, joules, calls)``.

    Raises:
        UserError: the window is too short for the counter, or the counter did not move.
    """

    def reading() -> tuple[float, float]:
        # The order is the same at both ends, so that the time of a reading cancels.
        synchronise()
        return meter.read(), clock()

    calls, seconds, joules = 0, 0.0, 0.0
    first_joules, start = reading()
    while seconds < at_least or calls < least_calls:
        left = max(at_least - seconds, (least_calls - calls) * call_seconds)
        more = ceil(min(left, READ_EVERY_SECONDS) / call_seconds)
        for _ in range(more):
            run()
        now_joules, now = reading()
        calls, seconds, joules = calls + more, now - start, now_joules - first_joules
    if seconds < PERIODS_OF_A_WINDOW * meter.period:
        raise UserError(
            f"measuring energy ({what}): a window of {seconds:.3g} s is shorter than {PERIODS_OF_A_WINDOW} updates of "
            f"the counter, which come every {meter.period:g} s: raise energy_window_seconds"
        )
    if not joules > 0:
        raise UserError(
            f"measuring energy ({what}): the {meter.source} counter of {meter.device} moved by {joules:g} J in "
            f"{seconds:.3g} s: it does not count; {WITHOUT}"
        )
    return seconds, joules, calls


def device_name(device: torch.device) -> str:
    """The maker's name of a device. The number of threads of a CPU is not part of the name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    facts = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    model = re.search(r"^model name[ \t]*:[ \t]*(\S.*)$", facts, re.MULTILINE)
    # On Arm, cpuinfo names no model.
    return model[1].strip() if model else platform.processor() or platform.machine()


def _energy_zones(root: Path) -> list[Path]:
    """The zones of the packages and of their memories."""
    names = {}
    for zone in sorted(root.glob("intel-rapl:*")):  # the zones of AMD's CPUs have the same names
        if re.fullmatch(r"intel-rapl:\d+(:\d+)?", zone.name) and (zone / "name").is_file():
            names[zone.name] = _text(zone / "name")
    packages = {zone for zone, name in names.items() if name.startswith("package-")}
    memories = {zone for zone, name in names.items() if name == "dram" and zone.rpartition(":")[0] in packages}
    return [root / zone for zone in sorted(packages | memories)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError:
        raise UserError(
            f"{path} may not be read: since Linux 5.10 only root may read energy counters; allow it until the next "
            f"boot with `sudo chmod a+r {path.parent.parent}/intel-rapl:*/{path.name}`, or {WITHOUT}"
        ) from None
    except OSError as error:
        raise NoMeterError(f"{path} is no energy counter to read: {error.strerror}") from None


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise NoMeterError(f"{path} is no energy counter to read: it holds {text!r}") from None
