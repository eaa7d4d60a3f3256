"""Measured profiles on a simulated machine: a clock, watts, and a counter that moves in steps; and once for real."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from itertools import groupby, pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
import pytest
import torch

from study.costs.costs import Costs
from study.costs.measure import bench as measure
from study.costs.measure import meters
from study.costs.measure import profile as measured_profile
from study.costs.measure.bench import measure_profile
from study.costs.measure.meters import RaplMeter, device_name
from study.costs.measure.profile import MeasureSettings, Profile, Spread, check_same_device
from study.errors import UserError
from study.networks.inference_network import RunnableNetwork, in_fp32
from study.networks.multi_exit import build_network
from study.networks.settings import HeadSettings, NetworkSettings
from study.storage.versions import versions

BATCH = 4
ENGINE = 0.004
"""Seconds of eight smoothing steps of a batch."""
IDLE_WATTS = 20.0


class Machine:
    """Time passes and joules flow only when something runs or sleeps; reads see the last update of the counter."""

    device, driver = "simulated", "1.0"

    def __init__(self, *, period: float = 0.05, noise: float = 0.0, source: str = "rapl") -> None:
        self.period, self.source = period, source
        self.noise, self.random = noise, np.random.default_rng(0)
        self.now = self.joules = self.shown = 0.0
        self.drift = 1.0
        self.ran: list[str] = []

    def spend(self, name: str, seconds: float, watts: float) -> None:
        self.ran.append(name)
        seconds *= 1 + self.noise * self.random.uniform(-1, 1)
        watts *= self.drift * (1 + self.noise * self.random.uniform(-1, 1))
        update = floor((self.now + seconds) / self.period) * self.period
        if update > self.now:
            self.shown = self.joules + (update - self.now) * watts
        self.now += seconds
        self.joules += seconds * watts

    def sleep(self, seconds: float) -> None:
        self.spend("sleep", seconds, IDLE_WATTS)

    def clock(self) -> float:
        return self.now

    def read(self) -> float:
        return self.shown

    def describe(self) -> dict[str, object]:
        return {"device": self.device, "power_limit_watts": 250.0}


Parts = list[tuple[float, float]]
"""Seconds of a batch, and watts."""
SEGMENTS: Parts = [(0.010, 60.0), (0.020, 90.0), (0.016, 120.0), (0.012, 80.0)]
HEADS: Parts = [(0.003, 88.0), (0.002, 90.0), (0.001, 92.0)]
SECONDS = np.array([seconds for seconds, _ in SEGMENTS]) / BATCH
JOULES = np.array([seconds * watts for seconds, watts in SEGMENTS]) / BATCH


def network_on(machine: Machine, *, segments: Parts = SEGMENTS, heads: Parts = HEADS) -> RunnableNetwork:
    """Parts that spend the machine's time; the last segment is the classifier."""

    def part(name: str, seconds: float, watts: float, output: Callable):
        def run(given):
            machine.spend(name, seconds, watts)
            return output(given)

        return run

    names = [f"segment {number}" for number in range(1, len(segments))]
    return RunnableNetwork(
        segments=tuple(part(name, *cost, lambda state: state) for name, cost in zip(names, segments, strict=False)),
        exit_heads=tuple(
            part(f"head {number}", *cost, lambda feature: torch.zeros(BATCH, 3)) for number, cost in enumerate(heads, 1)
        ),
        classifier=part("classifier", *segments[-1], lambda state: torch.ones(BATCH, 3)),
        classes=3,
        input_shape=(1, 2, 2),
        device=torch.device("cpu"),
        precision="int8",
        int8_execution="x86_kernels",
    )


def counted(exits: int = 3, **fields) -> Costs:
    return Costs(segment_flops=np.arange(exits + 1.0), head_flops=np.arange(exits) + 0.5, **fields)


@pytest.fixture(autouse=True)
def engine_of(monkeypatch):
    """The smoothing spends time of the machine that the test measures."""
    machines: list[Machine] = []

    def smooth(logits, thresholds, exit, steps):
        assert (logits.shape, thresholds.shape, steps) == ((BATCH, 3), (3,), 8)
        machines[0].spend("engine", ENGINE, 88.0)

    monkeypatch.setattr(measure, "jump_ratios", smooth)
    return machines.append


@pytest.fixture
def measured(engine_of):
    """Measure on a machine; changes of settings by name."""

    def run(machine: Machine, *, metered: bool = True, counts: Costs | None = None, meter=None, **settings) -> Profile:
        engine_of(machine)
        return measure_profile(
            network_on(machine),
            counted=counts or counted(),
            batch_size=BATCH,
            meter=(meter or machine) if metered else None,
            settings=MeasureSettings(**settings),
            clock=machine.clock,
            sleep=machine.sleep,
        )

    return run


# --- seconds and joules


def test_without_noise_every_part_costs_what_it_spends(measured):
    costs = measured(Machine(period=1e-6)).costs
    power = JOULES.sum() / SECONDS.sum()
    np.testing.assert_allclose(costs.segment_seconds, SECONDS)
    np.testing.assert_allclose(costs.head_seconds, np.array([0.003, 0.002, 0.001]) / BATCH)
    assert costs.engine_step_seconds == pytest.approx(ENGINE / BATCH / 8)
    np.testing.assert_allclose(costs.segment_energy, JOULES, rtol=1e-5)
    # Heads and the engine are charged the network's power, whatever they draw themselves.
    np.testing.assert_allclose(costs.head_energy, power * costs.head_seconds, rtol=1e-5)
    assert costs.engine_step_energy == pytest.approx(power * costs.engine_step_seconds, rel=1e-5)
    assert (costs.energy_source, costs.seconds_source) == ("rapl", "measured")
    assert (costs.batch_size, costs.device) == (BATCH, device_name(torch.device("cpu")))
    np.testing.assert_array_equal(costs.segment_flops, counted().segment_flops)


@pytest.mark.parametrize("period", [0.02, 0.1])
def test_noise_and_a_slow_counter_move_the_joules_by_a_few_percent(measured, period):
    """A window of 3 s is cut off by up to one update at each end; a segment is the difference of two windows."""
    profile = measured(Machine(period=period, noise=0.1), timing_window_seconds=0.2)
    cut_off = 2 * period / 3.0
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS, rtol=0.05)
    assert np.sum(profile.costs.segment_energy) == pytest.approx(JOULES.sum(), rel=cut_off + 0.01)
    np.testing.assert_allclose(profile.costs.segment_energy, JOULES, atol=(cut_off + 0.01) * JOULES.sum())


def test_between_two_prefixes_joules_are_shared_out_by_time(measured):
    """One prefix: it ends where half the time has passed."""
    costs = measured(Machine(period=1e-6), energy_prefixes=1).costs
    first, second = JOULES[:2].sum() / SECONDS[:2].sum(), JOULES[2:].sum() / SECONDS[2:].sum()
    np.testing.assert_allclose(costs.segment_energy, [*first * SECONDS[:2], *second * SECONDS[2:]], rtol=1e-5)


def test_a_gpu_waits_at_idle_power_while_the_host_smooths(measured):
    costs = measured(Machine(source="nvml")).costs
    assert costs.energy_source == "nvml"
    assert costs.engine_step_energy == pytest.approx(IDLE_WATTS * costs.engine_step_seconds, rel=0.05)


def test_idle_power_is_measured_and_subtracted(measured):
    profile = measured(Machine(period=1e-6))
    idle = IDLE_WATTS * SECONDS
    assert profile.idle_watts.median == pytest.approx(IDLE_WATTS, rel=1e-5)
    np.testing.assert_allclose(profile.segment_energy_above_idle, JOULES - idle, rtol=1e-5)
    heads = profile.costs.head_energy - IDLE_WATTS * profile.costs.head_seconds
    np.testing.assert_allclose(profile.head_energy_above_idle, heads, rtol=1e-5)
    assert profile.end_to_end_joules.median == pytest.approx(JOULES.sum(), rel=1e-5)
    assert profile.end_to_end_joules_above_idle.median == pytest.approx((JOULES - idle).sum(), rel=1e-5)


def test_idle_power_is_measured_after_the_device_has_come_to_rest(measured):
    """For half a second after work it still draws 200 W."""
    machine = Machine(period=1e-6)
    spend, worked = machine.spend, [0.0]

    def cooling(name: str, seconds: float, watts: float) -> None:
        spend(name, seconds, 200.0 if name == "sleep" and machine.now < worked[0] + 0.5 else watts)
        if name != "sleep":
            worked[0] = machine.now

    machine.spend = cooling
    assert measured(machine).idle_watts.maximum == pytest.approx(IDLE_WATTS, rel=1e-5)


def test_a_rapl_counter_that_wraps_around_within_windows(measured, tmp_path):
    """The machine's joules in a file that starts again every 500 J; the whole takes some 300 J a window."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "max_energy_range_uj").write_text("500000000")
    (zone / "energy_uj").write_text("0")
    machine = Machine(period=0.001)

    class OnFiles(RaplMeter):
        def read(self) -> float:
            (zone / "energy_uj").write_text(str(round(machine.shown * 1e6) % 500_000_000))
            return super().read()

    # Short settings: between two windows no more than one wrap.
    profile = measured(machine, meter=OnFiles(tmp_path), energy_window_images=1, settle_seconds=0.1)
    assert machine.joules > 5 * 500
    np.testing.assert_allclose(profile.costs.segment_energy, JOULES, rtol=0.01)


# --- windows, rounds, spread


def test_windows_are_long_enough_and_have_enough_images(measured):
    windows = measured(Machine()).windows
    work = [window for window in windows if window.what != "idle"]
    assert all(window.seconds >= 3.0 - 1e-6 for window in windows)
    assert all(window.images >= 1000 and window.images % BATCH == 0 for window in work)
    assert all(window.images == 0 for window in windows if window.what == "idle")


def test_energy_windows_are_interleaved(measured):
    windows = measured(Machine()).windows
    once = [("idle", 0), ("prefix", 1), ("prefix", 2), ("prefix", 3), ("prefix", 4), ("end_to_end", 4)]
    assert [(window.what, window.parts) for window in windows] == once * 3
    assert [window.repeat for window in windows] == [1] * 6 + [2] * 6 + [3] * 6


PASS = ["segment 1", "segment 2", "segment 3", "classifier"]
PASS_WITH_HEADS = ["segment 1", "head 1", "segment 2", "head 2", "segment 3", "head 3"]


def test_timing_windows_are_interleaved(measured):
    machine = Machine()
    measured(machine, metered=False, repeats=2, warm_up_seconds=1e-9)
    kinds = ["heads" if name.startswith("head") else name for name in machine.ran if not name.startswith("segment")]
    # Once to warm up and two rounds that count.
    assert [kind for kind, _ in groupby(kinds)] == ["classifier", "heads", "engine"] * 3


def test_parts_are_timed_in_whole_passes(measured):
    machine = Machine()
    measured(machine, metered=False, repeats=1)
    ran = machine.ran
    while ran:
        whole = next(part for part in (PASS, PASS_WITH_HEADS, ["engine"]) if ran[: len(part)] == part)
        ran = ran[len(whole) :]


def test_passes_timed_by_part_take_turns_with_those_timed_as_a_whole(measured):
    """The machine gets slower and slower: what is measured later would look dearer."""
    machine = Machine()
    spend = machine.spend
    machine.spend = lambda name, seconds, watts: spend(name, seconds * (1 + machine.now), watts)
    profile = measured(machine, metered=False, repeats=1, timing_window_seconds=20.0)
    assert profile.end_to_end_seconds.median > 10 * SECONDS.sum()
    # A pass follows the other at once: in its 58 ms the machine gets slower by as much.
    assert profile.relative_error_seconds == pytest.approx(0, abs=0.1)


def test_an_interruption_hits_no_part(measured):
    """One pass in sixteen takes a second longer, within segment 2."""
    machine = Machine()
    spend = machine.spend

    def interrupted(name: str, seconds: float, watts: float) -> None:
        spend(name, seconds + (name == "segment 2" and machine.ran.count(name) % 16 == 0), watts)

    machine.spend = interrupted
    profile = measured(machine, metered=False, timing_window_seconds=1.0)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)
    assert profile.end_to_end_seconds.median == pytest.approx(SECONDS.sum())
    assert profile.relative_error_seconds == pytest.approx(0, abs=1e-9)


def test_prefixes_run_their_segments_in_order_and_the_classifier_last(measured):
    machine = Machine()
    measured(machine, repeats=1)
    after_timing = machine.ran[machine.ran.index("sleep") :]
    blocks = [name for name, _ in groupby(after_timing)]
    orders = {name: set() for name in ("segment 1", "segment 2", "segment 3", "classifier")}
    for before, name in pairwise(blocks):
        orders.get(name, set()).add(before)
    assert orders["segment 2"] == {"segment 1"}
    assert orders["segment 3"] == {"segment 2"}
    assert orders["classifier"] == {"segment 3"}


def test_a_gpu_notes_the_marks_itself_and_is_waited_for_once_a_pass(monkeypatch):
    """The host is far ahead of a GPU that takes a millisecond a part: events count from when the GPU gets there."""
    queued, waited = [], []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            self.milliseconds, self.due = len(queued) * 1.0, len(waited) + 1

        def elapsed_time(self, later: "Event") -> float:
            assert len(waited) >= later.due, "the GPU was not waited for"
            return later.milliseconds - self.milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)

    def run(mark: Callable[[], object]) -> None:
        for parts in (2, 1, 3):
            mark()
            queued.extend(["part"] * parts)
        mark()

    bench = measure._Bench(
        torch.device("cuda", 1), BATCH, MeasureSettings(), clock=Machine().clock, sleep=waited.append
    )
    assert bench.laps(run) == pytest.approx([0.002, 0.001, 0.003])
    assert waited == [torch.device("cuda", 1)] * 2  # before the pass and behind it


def test_what_a_cold_machine_does_is_not_counted(measured):
    """All is slow for the first second, and each part in its first three calls."""
    machine = Machine()
    spend = machine.spend

    def cold(name: str, seconds: float, watts: float) -> None:
        slow = machine.now < 1.0 or machine.ran.count(name) < 3
        spend(name, seconds * (3.0 if slow else 1.0), watts)

    machine.spend = cold
    profile = measured(machine, metered=False, repeats=1)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)
    np.testing.assert_allclose(profile.costs.head_seconds, np.array([0.003, 0.002, 0.001]) / BATCH)


def test_passes_are_repeated_until_they_fill_their_window(measured):
    """0.1 s for each of the segments, the classifier and the whole; for each head; and for the engine."""
    machine = Machine()
    measured(machine, metered=False, repeats=1, timing_window_seconds=0.1, warm_up_seconds=1e-9)
    names = (name for name in machine.ran if name in ("classifier", "head 3", "engine"))
    passes, with_heads, engine = [len(list(run)) for _, run in groupby(names)][-3:]
    assert passes == 2 * ceil(5 * 0.1 / (2 * 0.058))
    assert with_heads == ceil(3 * 0.1 / 0.052)
    assert engine == pytest.approx(0.1 / ENGINE, abs=1)


def test_the_spread_of_the_repeats_is_reported(measured):
    profile = measured(Machine(noise=0.2), repeats=5)
    for spread in (*profile.segment_seconds, *profile.head_seconds, profile.idle_watts, profile.end_to_end_joules):
        assert spread.minimum < spread.median < spread.maximum
    assert [spread.median for spread in profile.segment_seconds] == pytest.approx(profile.costs.segment_seconds)
    assert [spread.median for spread in profile.head_seconds] == pytest.approx(profile.costs.head_seconds)
    whole = [window for window in profile.windows if window.what == "end_to_end"]
    joules = sorted(window.joules / window.images for window in whole)
    assert profile.end_to_end_joules == Spread(minimum=joules[0], median=joules[2], maximum=joules[4])


def test_a_window_of_too_few_updates_is_refused(measured):
    with pytest.raises(UserError, match=r"shorter than 5 updates .* raise energy_window_seconds") as error:
        measured(Machine(period=0.7))
    assert "\n" not in str(error.value)


def test_a_counter_that_stands_still_is_an_error_not_zero_joules(measured):
    machine = Machine()
    machine.read = lambda: 12.0
    with pytest.raises(UserError, match="moved by 0 J"):
        measured(machine)


def test_a_prefix_that_takes_more_than_a_longer_one_is_refused(measured):
    """Power falls to a tenth in the course of the first round."""
    machine = Machine()
    spend = machine.spend

    def fading(name: str, seconds: float, watts: float) -> None:
        machine.drift = max(0.02, machine.drift * 0.99) if name == "segment 2" else machine.drift
        spend(name, seconds, watts)

    machine.spend = fading
    with pytest.raises(UserError, match="took no more joules than the first"):
        measured(machine, repeats=1)


# --- sums against end to end


def test_the_relative_error_of_seconds_is_that_of_hand_computation(measured):
    """Each reading of the clock takes a millisecond: one between two parts, and one for the whole."""
    machine = Machine()

    def slow_clock() -> float:
        machine.now += 0.001
        return machine.now

    machine.clock = slow_clock
    profile = measured(machine, metered=False)
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS + 0.001 / BATCH)
    assert profile.end_to_end_seconds.median == pytest.approx(SECONDS.sum() + 0.001 / BATCH)
    assert profile.relative_error_seconds == pytest.approx(62 / 59 - 1)


def test_parts_that_a_cold_cache_slows_down_add_up_to_the_whole(measured):
    """A part takes 10 % longer behind another part than behind itself."""
    machine = Machine()
    spend = machine.spend

    def with_cold_cache(name: str, seconds: float, watts: float) -> None:
        cold = machine.ran and machine.ran[-1] != name
        spend(name, seconds * (1.1 if cold else 1.0), watts)

    machine.spend = with_cold_cache
    profile = measured(machine, metered=False)
    np.testing.assert_allclose(profile.costs.segment_seconds, 1.1 * SECONDS)
    np.testing.assert_allclose(profile.costs.head_seconds, 1.1 * np.array([0.003, 0.002, 0.001]) / BATCH)
    assert profile.relative_error_seconds == pytest.approx(0, abs=1e-9)


def test_the_relative_error_of_energy_is_that_of_hand_computation(measured, monkeypatch):
    """The end-to-end windows, which close a round, draw a quarter more."""
    machine = Machine(period=1e-6)

    def take_window(*arguments, what: str, **settings) -> tuple[float, float, int]:
        machine.drift = 1.25 if what.startswith("end_to_end") else 1.0
        return meters.take_window(*arguments, what=what, **settings)

    monkeypatch.setattr(measure, "take_window", take_window)
    profile = measured(machine)
    assert np.sum(profile.costs.segment_energy) == pytest.approx(JOULES.sum(), rel=1e-5)
    assert profile.end_to_end_joules.median == pytest.approx(1.25 * JOULES.sum(), rel=1e-5)
    assert profile.relative_error_energy == pytest.approx(1 / 1.25 - 1, abs=1e-5)


# --- without a meter


def test_without_a_meter_modelled_energies_are_kept(measured):
    modelled = {"segment_energy": [1.0, 2.0, 3.0, 4.0], "head_energy": [0.1, 0.2, 0.3], "engine_step_energy": 0.01}
    profile = measured(Machine(), metered=False, counts=counted(**modelled, energy_source="modelled:some"))
    assert profile.costs.energy_source == "modelled:some"
    assert profile.costs.segment_energy.tolist() == modelled["segment_energy"]
    assert profile.costs.engine_step_energy == 0.01
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)


def test_without_a_meter_and_without_a_model_there_are_no_joules(measured):
    profile = measured(Machine(), metered=False)
    assert profile.costs.segment_energy is profile.costs.head_energy is profile.costs.energy_source is None
    assert profile.windows == ()
    facts = (profile.meter, profile.idle_watts, profile.end_to_end_joules, profile.relative_error_energy)
    assert facts == (None,) * 4


def test_a_meter_replaces_modelled_energies(measured):
    counts = counted(segment_energy=np.ones(4), head_energy=np.ones(3), energy_source="modelled:some")
    costs = measured(Machine(period=1e-6), counts=counts).costs
    assert costs.energy_source == "rapl"
    np.testing.assert_allclose(costs.segment_energy, JOULES, rtol=1e-5)


# --- which prefixes


@pytest.mark.parametrize(
    ("seconds", "count", "ends"),
    [
        ([1, 1, 1, 1, 1, 1], 5, [1, 2, 3, 4, 5, 6]),
        ([1] * 12, 5, [2, 4, 6, 8, 10, 12]),
        ([1] * 12, 0, [12]),
        ([5, 5, 0.1], 5, [1, 3]),  # a classifier so short is measured with the segment before it
        ([0.1, 5, 5], 5, [2, 3]),
        ([9, 0.1, 0.1, 0.1], 5, [4]),
    ],
)
def test_prefixes_end_at_even_shares_of_the_time(seconds, count, ends):
    assert measure._prefix_ends(np.array(seconds, dtype=float), count) == ends


# --- refusals


@pytest.mark.parametrize(
    "settings",
    [{"repeats": 0}, {"timing_window_seconds": 0.0}, {"energy_window_seconds": float("nan")}, {"settle_seconds": -1.0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        MeasureSettings(**settings)


def test_costs_of_another_network_and_an_empty_batch_are_refused(measured):
    with pytest.raises(UserError, match="costs of 2 exits were given for a network with 3"):
        measured(Machine(), counts=counted(2))
    with pytest.raises(UserError, match="batch_size is 0"):
        measure_profile(network_on(Machine()), counted=counted(), batch_size=0, meter=None)


def test_a_profile_of_another_device_is_refused(measured, monkeypatch):
    profile = measured(Machine(), metered=False)
    check_same_device(profile, torch.device("cpu"))
    elsewhere = replace(profile, costs=replace(profile.costs, device="Another CPU"))
    monkeypatch.setattr(measured_profile, "device_name", lambda device: "This CPU")
    with pytest.raises(UserError, match="was measured on Another CPU, this is This CPU: measure it here") as error:
        check_same_device(elsewhere, torch.device("cpu"))
    assert "\n" not in str(error.value)


# --- JSON


@pytest.mark.parametrize("metered", [True, False])
def test_json_holds_every_field(measured, metered):
    profile = measured(Machine(noise=0.1), metered=metered)
    again = Profile.from_json(profile.to_json())
    for name in Profile.__dataclass_fields__:
        if name != "costs":
            assert getattr(again, name) == getattr(profile, name), name
    assert again.costs.to_json() == profile.costs.to_json()
    assert again.to_json() == profile.to_json()


def test_what_a_profile_says_of_its_circumstances(measured):
    profile = measured(Machine())
    assert (profile.precision, profile.int8_execution, profile.compiled) == ("int8", "x86_kernels", False)
    assert profile.threads == torch.get_num_threads()
    assert profile.meter == {"device": "simulated", "power_limit_watts": 250.0}
    assert profile.versions == versions()
    assert datetime.fromisoformat(profile.date).utcoffset() is not None


def changed(**changes) -> Callable[[dict], dict]:
    return lambda values: values | changes


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(format=99), "its format is 99"),
        (lambda values: {key: value for key, value in values.items() if key != "format"}, "its format is None"),
        (changed(precision="int4"), "its precision is 'int4'"),
        (changed(costs={"segment_flops": [1.0]}), "no cost profile"),
        (changed(colour="red"), "colour"),
        (lambda values: {key: value for key, value in values.items() if key != "idle_watts"}, "idle_watts"),
        (changed(end_to_end_seconds={"mean": 1.0}), "mean"),
        (changed(relative_error_seconds=float("nan")), "NaN"),
        (lambda values: [values], "no JSON object"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(measured, change, reason):
    values = json.loads(measured(Machine(), metered=False).to_json())
    with pytest.raises(UserError, match=reason) as error:
        Profile.from_json(json.dumps(change(values)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe", "3", "null"])
def test_text_that_is_no_profile_is_refused(text):
    with pytest.raises(UserError, match="no measured cost profile"):
        Profile.from_json(text)


def test_numbers_that_json_does_not_know_are_never_written(measured):
    profile = measured(Machine(), metered=False)
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(profile, relative_error_seconds=float("inf")).to_json()


# --- for real


def test_a_real_network_on_the_cpu(monkeypatch, tmp_path: Path):
    monkeypatch.undo()  # the engine smooths for real
    settings = NetworkSettings(backbone="vgg11", width=0.125, head=HeadSettings(codewords=4))
    network = build_network(settings, classes=3, image_size=32, channels=1)
    exits = network.exit_count
    short = MeasureSettings(repeats=2, warm_up_seconds=0.01, timing_window_seconds=0.001)
    profile = measure_profile(in_fp32(network), counted=counted(exits), batch_size=2, meter=None, settings=short)
    costs = profile.costs
    for parts, length in ((costs.segment_seconds, exits + 1), (costs.head_seconds, exits)):
        assert np.shape(parts) == (length,)
        assert np.all(np.array(parts) > 0)
    assert costs.engine_step_seconds > 0
    assert (profile.precision, profile.int8_execution, profile.meter) == ("fp32", None, None)
    assert not network.training
    (tmp_path / "profile.json").write_text(profile.to_json())
    check_same_device(Profile.from_json((tmp_path / "profile.json").read_bytes()), torch.device("cpu"))
