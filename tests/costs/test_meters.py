"""Energy meters on simulated counters: an NVML of three GPUs, and trees of Linux power zones."""

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from study.cli.main import main
from study.costs.measure import meters
from study.costs.measure.meters import NoMeterError, NvmlMeter, RaplMeter, device_name, find_meter, take_window
from study.errors import UserError
from study.run import one_network as profiling

# --- NVML


class NvmlError(Exception):
    pass


class FakeNvml:
    """Boards in the order of the bus; a handle is the board itself."""

    NVMLError = NvmlError
    NVML_CLOCK_GRAPHICS, NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = "graphics", "sm", "memory", 0

    def __init__(self, *boards: SimpleNamespace) -> None:
        self.boards = boards
        self.running = False

    def nvmlInit(self) -> None:
        self.running = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimpleNamespace:
        assert self.running
        for board in self.boards:
            if board.uuid == uuid:
                return board
        raise NvmlError("Not Found")

    def nvmlDeviceGetTotalEnergyConsumption(self, board: SimpleNamespace) -> int:
        if board.millijoules is None:
            raise NvmlError("Not Supported")
        return board.millijoules

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlDeviceGetEnforcedPowerLimit(self, board: SimpleNamespace) -> int:
        return 700_000

    def nvmlDeviceGetClockInfo(self, board: SimpleNamespace, which: str) -> int:
        if which == "memory":
            raise NvmlError("Not Supported")
        return {"graphics": 1980, "sm": 1755}[which]

    def nvmlDeviceGetTemperature(self, board: SimpleNamespace, which: int) -> int:
        return 41


def board(uuid: str, millijoules: int | None) -> SimpleNamespace:
    return SimpleNamespace(uuid=uuid, millijoules=millijoules)


@pytest.fixture
def nvml(monkeypatch) -> FakeNvml:
    """Three boards; torch sees two, in another order, and an old one."""
    fake = FakeNvml(board("GPU-aaaa", 1), board("GPU-bbbb", 5_000_500), board("GPU-cccc", None))
    visible = ["bbbb", "cccc", "a-slice"]
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Board {visible[index]}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=visible[index]))
    return fake


def test_nvml_reads_the_board_that_torch_uses_not_the_one_of_the_same_number(nvml):
    meter = NvmlMeter(0)
    assert (meter.source, meter.device, meter.driver) == ("nvml", "Board bbbb", "580.65")
    assert meter.read() == 5000.5
    nvml.boards[1].millijoules += 250
    assert meter.read() == 5000.75


def test_nvml_describes_what_the_board_tells_and_nothing_else(nvml):
    assert NvmlMeter(0).describe() == {
        "source": "nvml",
        "device": "Board bbbb",
        "driver": "580.65",
        "power_limit_watts": 700.0,
        "graphics_clock_mhz": 1980,
        "sm_clock_mhz": 1755,
        "temperature_celsius": 41,
        "counter_period_seconds": 0.1,
    }


@pytest.mark.parametrize(("index", "reason"), [(1, "Not Supported"), (2, "Not Found")])
def test_a_board_without_a_counter_has_no_meter(nvml, index, reason):
    with pytest.raises(NoMeterError, match=reason):
        NvmlMeter(index)
    assert find_meter(torch.device("cuda", index)) is None


def test_the_meter_of_a_gpu_is_found_with_and_without_a_number(nvml):
    for device in (torch.device("cuda"), torch.device("cuda", 0)):
        assert find_meter(device).device == "Board bbbb"


def test_a_rocm_device_has_no_nvml_meter(nvml, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert find_meter(torch.device("cuda")) is None


# --- RAPL


def zone(root: Path, number: str, name: str, *, energy: int = 0, limit: int = 262_143_328_850, **files: int) -> Path:
    folder = root / number
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{limit}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    for file, value in files.items():
        (folder / file).write_text(f"{value}\n")
    return folder


def set_energy(folder: Path, microjoules: int) -> None:
    (folder / "energy_uj").write_text(f"{microjoules}\n")


def test_rapl_sums_packages_and_their_memory_and_nothing_twice(tmp_path):
    counted = [
        zone(tmp_path, "intel-rapl:0", "package-0", energy=10, constraint_0_power_limit_uw=125_000_000),
        zone(tmp_path, "intel-rapl:0:2", "dram", energy=20),
        zone(tmp_path, "intel-rapl:1", "package-1-die-0", energy=30),
        zone(tmp_path, "intel-rapl:11", "package-11", energy=40),
    ]
    contained = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "uncore"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl:2:0", "dram"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    (tmp_path / "intel-rapl").mkdir()  # the control type: no zone
    meter = RaplMeter(tmp_path)
    assert meter.read() == 0.0
    for place, folder in enumerate(counted):
        set_energy(folder, 1_000_000 * 10**place + 10 * (place + 1))
    for folder in contained:
        set_energy(folder, 77_000_000)
    assert meter.read() == 1111.0
    assert meter.describe()["zones"] == [
        "intel-rapl:0 (package-0)",
        "intel-rapl:0:2 (dram)",
        "intel-rapl:1 (package-1-die-0)",
        "intel-rapl:11 (package-11)",
    ]
    assert meter.describe()["power_limit_watts"] == {"intel-rapl:0": 125.0}


def test_each_rapl_counter_wraps_around_at_its_own_range(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", energy=9_000_000, limit=10_000_000)
    memory = zone(tmp_path, "intel-rapl:0:0", "dram", energy=1_900_000, limit=2_000_000)
    meter = RaplMeter(tmp_path)
    readings = []
    for energy, of_memory in [(9_500_000, 1_900_000), (500_000, 100_000), (400_000, 100_000)]:
        set_energy(package, energy)
        set_energy(memory, of_memory)
        readings.append(meter.read())
    # 0.5 J; then 1 J over the edge of the package and 0.2 J over the memory's; then almost once around.
    assert readings == pytest.approx([0.5, 1.7, 11.6])


def test_rapl_that_only_root_may_read_is_told_in_one_line_with_the_remedy(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0")
    read_text = Path.read_text

    def refuse(path: Path, *args, **kwargs) -> str:
        if path.name == "energy_uj":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    with pytest.raises(UserError, match="only root may read") as error:
        find_meter(torch.device("cpu"))
    message = str(error.value)
    assert "\n" not in message
    assert f"sudo chmod a+r {tmp_path}/intel-rapl:*/energy_uj" in message
    assert "predictive-exit profile --no-meter" in message
    assert "energies then come from a model" in message


@pytest.mark.parametrize("missing", ["energy_uj", "max_energy_range_uj"])
def test_a_zone_without_its_files_is_no_meter(tmp_path, monkeypatch, missing):
    (zone(tmp_path, "intel-rapl:0", "package-0") / missing).unlink()
    with pytest.raises(NoMeterError, match=missing):
        RaplMeter(tmp_path)
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    assert find_meter(torch.device("cpu")) is None


def test_a_counter_that_holds_no_number_is_no_meter(tmp_path):
    (zone(tmp_path, "intel-rapl:0", "package-0") / "energy_uj").write_text("nonsense")
    with pytest.raises(NoMeterError, match="'nonsense'"):
        RaplMeter(tmp_path)


@pytest.mark.parametrize("zones", [[], [("intel-rapl:0", "psys")], [("intel-rapl-mmio:0", "package-0")]])
def test_a_machine_without_packages_has_no_meter(tmp_path, monkeypatch, zones):
    for number, name in zones:
        zone(tmp_path, number, name)
    monkeypatch.setattr(meters, "POWERCAP", tmp_path / "absent" if not zones else tmp_path)
    assert find_meter(torch.device("cpu")) is None


def test_a_readable_package_is_found_as_the_meter_of_the_cpu(tmp_path, monkeypatch):
    zone(tmp_path, "intel-rapl:0", "package-0")
    monkeypatch.setattr(meters, "POWERCAP", tmp_path)
    assert find_meter(torch.device("cpu")).source == "rapl"


def test_other_devices_have_no_meter():
    assert find_meter(torch.device("meta")) is None


def test_the_command_profile_looks_for_no_meter_where_it_is_told_so(tmp_path, monkeypatch, capsys):
    def refuse(device: torch.device) -> None:
        raise UserError("the counter may not be read")

    monkeypatch.setattr(profiling, "find_meter", refuse)
    network = ["--backbone", "vgg11", "--width", "0.125", "--head", "linear", "--device", "cpu"]
    command = ["profile", *network, "--repeats", "1", "--output", str(tmp_path), "--json"]
    assert main(command) == 2
    assert "the counter may not be read" in capsys.readouterr().err
    assert main([*command, "--no-meter"]) == 0
    row = json.loads(capsys.readouterr().out)["profiles"][0]
    assert row["ms"] > 0
    assert row["energy_source"].startswith("modelled:")


# --- names of devices


def test_a_cpu_is_called_by_its_model(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz\nprocessor\t: 1\n")
    monkeypatch.setattr(meters, "CPUINFO", tmp_path / "cpuinfo")
    assert device_name(torch.device("cpu")) == "Some CPU @ 2.0GHz"


@pytest.mark.parametrize("processor", ["arm64 of a maker", ""])
def test_a_cpu_without_a_model_is_called_by_its_processor_or_architecture(tmp_path, monkeypatch, processor):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 48.0\n")
    monkeypatch.setattr(meters.platform, "processor", lambda: processor)
    monkeypatch.setattr(meters.platform, "machine", lambda: "aarch64")
    for cpuinfo in ("cpuinfo", "absent"):
        monkeypatch.setattr(meters, "CPUINFO", tmp_path / cpuinfo)
        assert device_name(torch.device("cpu")) == (processor or "aarch64")


# --- windows


class Machine:
    """A clock, a counter of constant power that stops when it is not read for 100 s, and what happened, in order."""

    source, device, driver, period = "rapl", "simulated", None, 0.1

    def __init__(self, *, watts: float) -> None:
        self.now, self.watts, self.last_read, self.happened = 0.0, watts, 0.0, []

    def run(self) -> None:
        self.now += 2.0

    def synchronise(self) -> None:
        self.happened.append("synchronise")

    def clock(self) -> float:
        return self.now

    def read(self) -> float:
        assert self.now - self.last_read < 100.0, "a counter that wraps was left alone"
        self.last_read = self.now
        self.happened.append("read")
        return 7.0 + self.now * self.watts

    def window(self, **changes) -> tuple[float, float, int]:
        settings = {"what": "work", "at_least": 3.0, "call_seconds": 2.0} | changes
        return take_window(self, self.run, synchronise=self.synchronise, clock=self.clock, **settings)


def test_a_window_is_long_enough_and_has_enough_calls():
    assert Machine(watts=50.0).window() == (4.0, 200.0, 2)
    assert Machine(watts=50.0).window(least_calls=9) == (18.0, 900.0, 9)


@pytest.mark.parametrize("guess", [0.1, 0.5, 40.0])
def test_a_wrong_guess_of_the_time_of_a_call_costs_time_only(guess):
    seconds, joules, calls = Machine(watts=50.0).window(call_seconds=guess)
    assert seconds == 2.0 * calls >= 3.0
    assert joules == 50.0 * seconds


def test_the_counter_is_read_after_the_device_has_finished():
    machine = Machine(watts=50.0)
    machine.window()
    assert machine.happened == ["synchronise", "read"] * 2


def test_a_long_window_reads_before_the_counter_can_wrap_twice():
    assert Machine(watts=50.0).window(at_least=1000.0) == (1000.0, 50_000.0, 500)
    assert Machine(watts=50.0).window(least_calls=500) == (1000.0, 50_000.0, 500)


def test_a_window_shorter_than_five_updates_of_the_counter_is_refused():
    machine = Machine(watts=50.0)
    machine.period = 0.5
    with pytest.raises(UserError, match=r"\(work\): a window of 2 s is shorter than 5 updates .* every 0.5 s"):
        machine.window(at_least=1.0)
    machine.period = 0.4
    assert machine.window(at_least=1.0) == (2.0, 100.0, 1)


@pytest.mark.parametrize("watts", [0.0, -3.0])
def test_a_counter_that_does_not_rise_is_an_error_not_a_zero(watts):
    with pytest.raises(UserError, match="it does not count"):
        Machine(watts=watts).window()
