"""Measured joules on a simulated machine: windows, prefixes, idle power, and machines without a meter."""

from itertools import groupby, pairwise

import numpy as np
import pytest
import torch
from support.simulated_machine import (
    BATCH,
    COPY,
    ENGINE,
    HEAD_SECONDS,
    IDLE_WATTS,
    JOULES,
    ON_HOST,
    SECONDS,
    Machine,
    counted,
    measured,
    network_on,
)

from study.costs.measure.meters import RaplMeter, device_name
from study.errors import UserError


def test_without_noise_every_part_costs_what_it_spends():
    costs = measured(Machine(period=1e-6)).costs
    power = JOULES.sum() / SECONDS.sum()
    np.testing.assert_allclose(costs.segment_seconds, SECONDS)
    np.testing.assert_allclose(costs.head_seconds, HEAD_SECONDS)
    assert costs.engine_step_seconds == pytest.approx(ENGINE / BATCH / 8)
    np.testing.assert_allclose(costs.segment_energy, JOULES, rtol=1e-5)
    # Heads and the engine are charged the network's power, whatever they draw themselves.
    np.testing.assert_allclose(costs.head_energy, power * costs.head_seconds, rtol=1e-5)
    assert costs.engine_step_energy == pytest.approx(power * costs.engine_step_seconds, rel=1e-5)
    assert (costs.energy_source, costs.seconds_source) == ("rapl", "measured")
    assert (costs.batch_size, costs.device) == (BATCH, device_name(torch.device("cpu")))
    np.testing.assert_array_equal(costs.segment_flops, counted().segment_flops)


@pytest.mark.parametrize("period", [0.02, 0.1])
def test_noise_and_a_slow_counter_move_the_joules_by_a_few_percent(period):
    """A window of 3 s is cut off by up to one update at each end; a segment is the difference of two windows."""
    profile = measured(Machine(period=period, noise=0.1), timing_window_seconds=0.2)
    cut_off = 2 * period / 3.0
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS, rtol=0.05)
    assert np.sum(profile.costs.segment_energy) == pytest.approx(JOULES.sum(), rel=cut_off + 0.01)
    np.testing.assert_allclose(profile.costs.segment_energy, JOULES, atol=(cut_off + 0.01) * JOULES.sum())


def test_between_two_prefixes_joules_are_apportioned_by_time():
    """One prefix: it ends where half the time has passed."""
    costs = measured(Machine(period=1e-6), energy_prefixes=1).costs
    first, second = JOULES[:2].sum() / SECONDS[:2].sum(), JOULES[2:].sum() / SECONDS[2:].sum()
    np.testing.assert_allclose(costs.segment_energy, [*first * SECONDS[:2], *second * SECONDS[2:]], rtol=1e-5)


def test_a_gpu_waits_at_idle_power_while_the_host_copies_decides_and_smooths():
    costs = measured(Machine(source="nvml", period=1e-6)).costs
    power = JOULES.sum() / SECONDS.sum()
    assert costs.energy_source == "nvml"
    assert costs.engine_step_energy == pytest.approx(IDLE_WATTS * costs.engine_step_seconds, rel=1e-5)
    joules = power * (HEAD_SECONDS - ON_HOST) + IDLE_WATTS * ON_HOST
    np.testing.assert_allclose(costs.head_energy, joules, rtol=1e-5)


def test_idle_power_is_measured_and_subtracted():
    profile = measured(Machine(period=1e-6))
    idle = IDLE_WATTS * SECONDS
    assert profile.idle_watts.median == pytest.approx(IDLE_WATTS, rel=1e-5)
    np.testing.assert_allclose(profile.segment_energy_above_idle, JOULES - idle, rtol=1e-5)
    heads = profile.costs.head_energy - IDLE_WATTS * profile.costs.head_seconds
    np.testing.assert_allclose(profile.head_energy_above_idle, heads, rtol=1e-5)
    assert profile.end_to_end_joules.median == pytest.approx(JOULES.sum(), rel=1e-5)
    assert profile.end_to_end_joules_above_idle.median == pytest.approx((JOULES - idle).sum(), rel=1e-5)


def test_idle_power_is_measured_after_the_device_has_come_to_rest():
    """For half a second after work it still draws 200 W."""
    machine = Machine(period=1e-6)
    spend, worked = machine.spend, [0.0]

    def cooling(name: str, seconds: float, watts: float) -> None:
        spend(name, seconds, 200.0 if name == "sleep" and machine.now < worked[0] + 0.5 else watts)
        if name != "sleep":
            worked[0] = machine.now

    machine.spend = cooling
    assert measured(machine).idle_watts.maximum == pytest.approx(IDLE_WATTS, rel=1e-5)


def test_a_rapl_counter_that_wraps_around_within_windows(tmp_path):
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


def test_windows_are_long_enough_and_have_enough_images():
    windows = measured(Machine()).windows
    work = [window for window in windows if window.what != "idle"]
    assert all(window.seconds >= 3.0 - 1e-6 for window in windows)
    assert all(window.images >= 1000 and window.images % BATCH == 0 for window in work)
    assert all(window.images == 0 for window in windows if window.what == "idle")


def test_energy_windows_are_interleaved():
    windows = measured(Machine()).windows
    once = [("idle", 0), ("prefix", 1), ("prefix", 2), ("prefix", 3), ("prefix", 4), ("end_to_end", 4)]
    assert [(window.what, window.parts) for window in windows] == once * 3
    assert [window.repeat for window in windows] == [1] * 6 + [2] * 6 + [3] * 6


def test_prefixes_run_their_segments_in_order_and_the_classifier_last():
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


def test_a_window_of_too_few_updates_is_refused():
    with pytest.raises(UserError, match=r"shorter than 5 updates .* raise energy_window_seconds") as error:
        measured(Machine(period=0.7))
    assert "\n" not in str(error.value)


def test_a_counter_that_stands_still_is_an_error_not_zero_joules():
    machine = Machine()
    machine.read = lambda: 12.0
    with pytest.raises(UserError, match="moved by 0 J"):
        measured(machine)


def test_a_prefix_that_takes_more_than_a_longer_one_is_refused():
    """Power falls to a tenth in the course of the first round."""
    machine = Machine()
    spend = machine.spend

    def fading(name: str, seconds: float, watts: float) -> None:
        machine.drift = max(0.02, machine.drift * 0.99) if name == "segment 2" else machine.drift
        spend(name, seconds, watts)

    machine.spend = fading
    with pytest.raises(UserError, match="took no more joules than the first"):
        measured(machine, repeats=1)


def test_the_relative_error_of_energy_is_that_of_hand_computation():
    """The end-to-end window, which follows the window of the longest prefix, draws a quarter more."""
    passes = 1000 // BATCH

    class Drifting(Machine):
        whole_passes = 0

        def spend(self, name: str, seconds: float, watts: float) -> None:
            self.whole_passes = 0 if name == "sleep" else self.whole_passes + (name == "classifier")
            if name in ("sleep", "segment 1"):
                self.drift = 1.25 if self.whole_passes >= passes else 1.0
            super().spend(name, seconds, watts)

    profile = measured(Drifting(period=1e-6))
    whole = [(window.what, window.images) for window in profile.windows if window.parts == 4]
    assert whole == [("prefix", passes * BATCH), ("end_to_end", passes * BATCH)] * 3
    assert np.sum(profile.costs.segment_energy) == pytest.approx(JOULES.sum(), rel=1e-5)
    assert profile.end_to_end_joules.median == pytest.approx(1.25 * JOULES.sum(), rel=1e-5)
    assert profile.relative_error_energy == pytest.approx(1 / 1.25 - 1, abs=1e-5)


def test_without_a_meter_modelled_energies_are_kept():
    modelled = {"segment_energy": [1.0, 2.0, 3.0, 4.0], "head_energy": [0.1, 0.2, 0.3], "engine_step_energy": 0.01}
    profile = measured(Machine(), metered=False, counts=counted(**modelled, energy_source="modelled:some"))
    assert profile.costs.energy_source == "modelled:some"
    assert profile.costs.segment_energy.tolist() == modelled["segment_energy"]
    assert profile.costs.engine_step_energy == 0.01
    np.testing.assert_allclose(profile.costs.segment_seconds, SECONDS)


def test_without_a_meter_and_without_a_model_there_are_no_joules():
    profile = measured(Machine(), metered=False)
    assert profile.costs.segment_energy is profile.costs.head_energy is profile.costs.energy_source is None
    assert profile.windows == ()
    facts = (profile.meter, profile.idle_watts, profile.end_to_end_joules, profile.relative_error_energy)
    assert facts == (None,) * 4


def test_a_meter_replaces_modelled_energies():
    counts = counted(segment_energy=np.ones(4), head_energy=np.ones(3), energy_source="modelled:some")
    costs = measured(Machine(period=1e-6), counts=counts).costs
    assert costs.energy_source == "rapl"
    np.testing.assert_allclose(costs.segment_energy, JOULES, rtol=1e-5)


@pytest.mark.parametrize(
    ("shares", "count", "ends"),
    [
        ([1, 1, 1, 1, 1, 1], 5, [1, 2, 3, 4, 5, 6]),
        ([1] * 12, 5, [2, 4, 6, 8, 10, 12]),
        ([1] * 12, 0, [12]),
        ([5, 5, 0.125], 5, [1, 3]),  # a classifier so short is measured with the segment before it
        ([0.125, 5, 5], 5, [2, 3]),
        ([9, 0.125, 0.125, 0.125], 5, [4]),
    ],
)
def test_prefixes_end_at_even_shares_of_the_time(shares, count, ends):
    """Shares are in binary fractions of a second, whose sums are exact on the machine's clock."""
    machine = Machine(period=1e-6)
    seconds = np.array(shares) / 64 - np.append(np.zeros(len(shares) - 1), COPY)
    network = network_on(machine, segments=[(each, 80.0) for each in seconds], heads=[(COPY, 80.0)] * (len(shares) - 1))
    profile = measured(
        machine,
        network=network,
        counts=counted(len(shares) - 1),
        repeats=1,
        energy_prefixes=count,
        timing_window_seconds=2.0**-6,
        warm_up_seconds=2.0**-6,
    )
    assert profile.costs.segment_seconds.tolist() == (np.array(shares) / 64 / BATCH).tolist()
    assert [window.parts for window in profile.windows if window.what == "prefix"] == ends
