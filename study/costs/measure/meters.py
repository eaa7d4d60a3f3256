"""Energy meters: counters of joules behind one protocol, one class a vendor.

A meter's reading means nothing alone; the difference of two readings is what was consumed between them. Work that a
device was given and has not done yet is not in its counter: synchronise first, then read.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Literal, Protocol

import torch

from study.errors import UserError

Run = Callable[[], object]
MeterSource = Literal["nvml", "rapl"]

PERIODS_OF_A_WINDOW = 5
"""Fewer updates of a counter tell little: the first and the last are cut off somewhere by the window."""
READ_EVERY_SECONDS = 30.0
"""Within a window, so that no wrap-around of a counter is missed."""
WITHOUT = "measure without a meter (predictive-exit profile --no-meter): energies then come from a model"
"""The way out of every error that keeps a meter from being read."""
POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")


class Meter(Protocol):
    """A counter of the energy that one device has consumed."""

    @property
    def source(self) -> MeterSource:
        """What energies measured with it name as their source."""
        ...

    @property
    def device(self) -> str:
        """The device, as people call it."""
        ...

    @property
    def driver(self) -> str | None:
        """Version of what keeps the counter."""
        ...

    @property
    def period(self) -> float:
        """Seconds between two updates of the counter, on the long side: between them it stands still."""
        ...

    def read(self) -> float:
        """Joules since some fixed moment; never less than the reading before."""
        ...

    def describe(self) -> dict[str, object]:
        """What to record beside a measurement: device, driver, clocks now, limits; JSON values only."""
        ...


class NoMeterError(UserError):
    """The device has no energy counter that could be read."""


class NvmlMeter:
    """The counter of one NVIDIA GPU (Volta or newer): millijoules of the whole board since the driver was loaded.

    Args:
        index: the device as torch numbers it (``cuda:<index>``).

    Raises:
        NoMeterError: this GPU, or this slice of one, has no counter.
        UserError: the package nvidia-ml-py is missing.
    """

    source: MeterSource = "nvml"
    # NVIDIA documents no period. Between 20 and 100 ms have been seen, depending on the GPU.
    period = 0.1

    def __init__(self, index: int) -> None:
        try:
            import pynvml  # optional, and a CPU needs none of it
        except ImportError:
            raise UserError(
                "the energy counter of a GPU is read by the package nvidia-ml-py, which is missing: "
                f"pip install nvidia-ml-py, or {WITHOUT}"
            ) from None
        self._nvml = pynvml
        self.device = torch.cuda.get_device_name(index)
        # NVML sees every GPU of the machine in the order of the bus, torch those that CUDA_VISIBLE_DEVICES left it, in
        # CUDA's order (fastest first): the same index may be another board. The UUID is the same for both.
        uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            self.read()  # GPUs older than Volta have the function and refuse it
            self.driver: str | None = str(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError as error:
            # A slice of a partitioned GPU (MIG) also ends here: the board's counter is that of all slices.
            raise NoMeterError(f"{self.device} (cuda:{index}) has no energy counter to read: {error}") from None

    def read(self) -> float:
        """Joules since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def describe(self) -> dict[str, object]:
        """Device, driver, power limit, clocks and temperature now; what this GPU does not tell is left out."""
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
            try:
                facts[name] = query()
            except nvml.NVMLError:
                continue
        return facts | {"counter_period_seconds": self.period}


class RaplMeter:
    """The counters of a machine's CPU packages and their memory (Intel and AMD, Linux), summed.

    They count what the whole machine does, other programs included. Cores and graphics are part of their package, and
    ``psys`` contains the packages: adding either would count the same joules twice. ``intel-rapl-mmio`` offers the
    same packages a second time.

    A counter wraps around at ``max_energy_range_uj`` (a common 262 kJ: after 22 minutes at 200 W). One wrap between
    two readings is seen and added, two look like one: :func:`take_window` reads more often than that.

    Args:
        root: where Linux shows its power zones.

    Raises:
        NoMeterError: there is no such counter.
        UserError: the counters may not be read.
    """

    source: MeterSource = "rapl"
    period = 0.01  # the counters move every millisecond; the margin is for machines on which they do not

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
        """Joules since this meter was made."""
        for index, zone in enumerate(self._zones):
            now = _number(zone / "energy_uj")
            gone = now - self._last[index]
            self._microjoules += gone if gone >= 0 else gone + self._ranges[index]
            self._last[index] = now
        return self._microjoules / 1e6

    def describe(self) -> dict[str, object]:
        """Device, kernel, the zones that are summed, and the long-term power limit of each where there is one."""
        facts: dict[str, object] = {"source": self.source, "device": self.device, "driver": self.driver}
        facts["zones"] = [f"{zone.name} ({_text(zone / 'name')})" for zone in self._zones]
        limits = {}
        for zone in self._zones:
            try:
                limits[zone.name] = _number(zone / "constraint_0_power_limit_uw") / 1e6
            except UserError:
                continue
        if limits:
            facts["power_limit_watts"] = limits
        return facts | {"counter_period_seconds": self.period}


def find_meter(device: torch.device) -> Meter | None:
    """The meter of a device, or None where it has none.

    Raises:
        UserError: there is one, but something that a person can mend keeps it from being read.
    """
    try:
        # A ROCm build of torch calls its devices "cuda" too; NVML knows nothing of them.
        if device.type == "cuda" and torch.version.hip is None:
            return NvmlMeter(torch.cuda.current_device() if device.index is None else device.index)
        if device.type == "cpu":
            return RaplMeter(POWERCAP)
    except NoMeterError:
        pass
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
    """Call ``run`` again and again between two readings of the meter.

    Args:
        meter: of the device that does the work.
        run: the work.
        what: the work's name, for errors.
        at_least: seconds.
        call_seconds: about how long one call takes; a wrong guess makes the window longer, not wrong.
        least_calls: calls in the window, at least.
        synchronise: waits until the device has done all it was given.
        clock: seconds.

    Returns:
        ``(seconds, joules, calls)``.

    Raises:
        UserError: the window is too short for the counter, or the counter did not move.
    """

    def reading() -> tuple[float, float]:
        # In this order at both ends, so that the time which a reading takes cancels.
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
    """What a device is called by its maker; for a CPU, how many threads torch uses is a separate matter."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()  # Arm's cpuinfo names no model


def _energy_zones(root: Path) -> list[Path]:
    """The packages and, of each, its memory."""
    names = {}
    for zone in sorted(root.glob("intel-rapl:*")):  # AMD's are called so too
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
